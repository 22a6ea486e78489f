#!/bin/sh
# Jinja2 runs the else of a loop that did iterate, when every round was left by break or continue.
#
# Its documentation says that else is rendered "if no iteration took place". A round counts only when it reaches its end.
# Exits non-zero when that changes.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet jinja2==3.1.6
"$folder/venv/bin/python" - <<'PY'
import jinja2

env = jinja2.Environment(extensions=["jinja2.ext.loopcontrols"])
print("jinja2", jinja2.__version__)
cases = [
    ("{% for a in [1, 2] %}{{ a }}{% break %}{% else %}none{% endfor %}", "1", "1none"),
    ("{% for a in [1, 2] %}{{ a }}{% continue %}{% else %}none{% endfor %}", "12", "12none"),
    ("{% for a in [1, 2] %}{% if a == 2 %}{% break %}{% endif %}{{ a }}{% else %}none{% endfor %}", "1", "1"),
]
same = True
for template, expected, known in cases:
    seen = env.from_string(template).render()
    print({"template": template, "expected": expected, "seen": seen})
    same = same and seen == known
raise SystemExit(0 if same else 1)
PY
