"""Ground truth for src/tokenizer/jinja: what Python's Jinja2 makes of template features and of whole templates.

The environment is set up as transformers 5 does it for chat templates: the immutable sandbox with trim_blocks and
lstrip_blocks, the loop controls, the tag `generation`, a tojson that is plain json.dumps, raise_exception and
strftime_now (here at a fixed time). All templates are our own.

    python3 -m venv venv && venv/bin/pip install jinja2==3.1.6
    venv/bin/python scripts/golden/chat-template-features.py     # writes test/golden/tokenizer/jinja
"""

import hashlib
import json
import pathlib
import platform
import re
from datetime import datetime

import jinja2
import jinja2.ext
from jinja2.sandbox import ImmutableSandboxedEnvironment

HERE = pathlib.Path(__file__).resolve().parent
OUT = HERE.parent.parent / "test" / "golden" / "tokenizer" / "jinja"


class Generation(jinja2.ext.Extension):
    tags = {"generation"}

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
        return jinja2.nodes.CallBlock(self.call_method("_inside"), [], [], body).set_lineno(line)

    def _inside(self, caller):
        return caller()


def environment():
    def refuse(message):
        raise jinja2.exceptions.TemplateError(message)

    def tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
        return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)

    env = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols]
    )
    env.filters["tojson"] = tojson
    env.globals["raise_exception"] = refuse
    env.globals["strftime_now"] = lambda format: datetime(2026, 7, 5, 15, 4, 9, 123000).strftime(format)
    return env


#: Variables that every feature may read.
CONTEXT = {
    "messages": [
        {"role": "system", "content": "  Be brief.\n"},
        {"role": "user", "content": "Hi <b>there</b> & \"you\""},
        {"role": "assistant", "content": "<think>\nhm\n</think>\n\n    return x\n", "tool_calls": None},
        {"role": "user", "content": "naïve café — 日本語 🙂🎉 ß ǆ Σας"},
    ],
    "tools": None,
    "documents": None,
    "add_generation_prompt": True,
    "bos_token": "<s>",
    "eos_token": "</s>",
    "text": "  a-b c\td\n\n",
    "emoji": "🙂a🎉b",
    "word": "hello wORLD of 2nd-hand (things)",
    "numbers": [3, 1, 2.5, -4, 0],
    "names": ["b", "A", "c", "B", "a"],
    "nested": {"b": {"x": [1, 2, {"y": None}]}, "a": True, "items": 7, "num": 1.5},
    "people": [
        {"name": "Ann", "age": 31, "team": {"id": 2}},
        {"name": "bob", "age": 25, "team": {"id": 1}},
        {"name": "Cyd", "age": 31, "team": {"id": 1}},
    ],
    "tree": [{"v": 1, "c": [{"v": 2, "c": [{"v": 3}]}, {"v": 4}]}, {"v": 5}],
    "empty": "",
    "zero": 0,
    "float": 0.1,
}

FEATURES = r"""
{{ text.strip() }}|
{{ text.strip(' \n') }}|
{{ text.lstrip(' ') }}|{{ text.rstrip('\n') }}|
{{ '\n\n  x\n'.lstrip('\n') }}|
{{ 'xxhixx'.strip('x') }}|{{ 'xyhiyx'.strip('yx') }}|{{ 'abc'.strip('') }}|{{ 'abc'.strip(none) }}
{{ '🙂hi🙂'.strip('🙂') }}|{{ '\x1c\x85\u2003x\ufeff'.strip() | length }}
{{ text | trim }}|{{ 'xhix' | trim('x') }}|{{ text | trim | length }}
{{ 'hELLO wORLD'.capitalize() }}|{{ 'hELLO wORLD' | capitalize }}|{{ ''.capitalize() }}|{{ 'ßa'.capitalize() }}|{{ 'ǆx'.capitalize() }}
{{ word.title() }}|{{ word | title }}
{{ "they're bill's friends".title() }}|{{ "they're bill's friends" | title }}
{{ 'ab12cd 3d e-f'.title() }}|{{ 'ab12cd 3d e-f' | title }}
{{ 'ﬁn ß ǆ'.title() }}|{{ 'ﬁn ß ǆ' | title }}
{{ word.upper() }}|{{ word | upper }}|{{ word.lower() }}|{{ 'ΣΑΣ'.lower() }}|{{ 'straße'.upper() }}
{{ word.swapcase() }}
{{ [1, 2] == [1, 2] }}{{ [1, 2] == [1, 3] }}{{ [1] == [1.0] }}{{ [] == [] }}{{ {} == {} }}{{ {'a': [1]} == {'a': [1]} }}{{ (1, 2) == (1, 2) }}{{ (1, 2) == [1, 2] }}
{{ [1, [2, 3]] != [1, [2, 3]] }}{{ 'a' == 'a' }}{{ 1 == true }}{{ 0 == false }}{{ 1 == 1.0 }}{{ none == none }}{{ none == false }}{{ '1' == 1 }}
{{ names | join(', ') }}|{{ people | join(', ', attribute='name') }}|{{ people | map(attribute='name') | join('/') }}|{{ people | join('-', 'team.id') }}
{{ [1, none, true, 2.0, 'x'] | join(';') }}|{{ ', '.join(names) }}|{{ 'abc' | join('.') }}
{{ names is iterable }}{{ 'a' is iterable }}{{ 1 is iterable }}{{ nested is iterable }}{{ none is iterable }}{{ undefined_thing is iterable }}{{ range(2) is iterable }}
{% for m in messages %}{{ m.role }}{% if loop.index == 2 %}{% break %}{% endif %};{% endfor %}
{% for m in messages %}{% if m.role == 'user' %}{% continue %}{% endif %}{{ m.role }};{% endfor %}
{% for a in [1,2] %}{% for b in [1,2,3] %}{% if b == 2 %}{% break %}{% endif %}{{ a }}{{ b }} {% endfor %}{% endfor %}
{% for a in [1,2,3] %}{% if a == 2 %}{% continue %}{% endif %}{{ loop.index }}{{ loop.last }} {% else %}none{% endfor %}
{% for a in [1,2,3] %}{% set x %}in{% if a == 2 %}{% break %}{% endif %}{% endset %}{{ x }}{{ a }}{% endfor %}
{% for a in [1,2,3] %}{% filter upper %}a{% if a == 2 %}{% continue %}{% endif %}b{% endfilter %}{% endfor %}
{% for a in [1,2,3] %}{% with b = a %}{% if b == 2 %}{% break %}{% endif %}{{ b }}{% endwith %}{% endfor %}
{% for a in [1, 2] %}{% if true %}{% break %}{% endif %}x{% else %}E{% endfor %}
{% for a in [1, 2] %}{% continue %}{% else %}E{% endfor %}
{% for a in [1, 2] %}{% if a == 2 %}{% break %}{% endif %}{% else %}E{% endfor %}
{% for a in [1] %}{% for b in [] %}{% else %}{% break %}{% endfor %}z{% endfor %}
{% for a in [1, 2] %}{{ loop }}{{ loop | length }}{% endfor %}{% macro m() %}{% endmacro %}{{ m }}
{{ none | map('upper') | list }}{{ zero | select('odd') | list }}
{{ [1] | select(nosuch) | list }}
{% set later = 5 | items %}fine
{{ tools | items | list }}
{{ '%d' % undefined_thing }}
{{ 'a' % undefined_thing }}{{ 'a' % [1] }}{{ 'a' % {'b': 1} }}{{ 'a' % range(2) }}
{{ 'a' % 1 }}
{{ undefined_thing | truncate(5) }}{{ [1, 2] | truncate(5) }}
{{ '1' | escape | int }}{{ '2.5' | safe | float }}
{{ 1.0 | tojson }} {{ 1 | tojson }} {{ 0.1 | tojson }} {{ 1e22 | tojson }} {{ 1e16 | tojson }} {{ 1e15 | tojson }} {{ 1e-5 | tojson }} {{ 0.0001 | tojson }} {{ 1.5e-7 | tojson }} {{ -0.0 | tojson }} {{ 123456789.125 | tojson }}
{{ 1.0 }} {{ 1 }} {{ 1e22 }} {{ 1e16 }} {{ 1e-5 }} {{ 0.1 + 0.2 }} {{ 3.0 * 2 }} {{ 7 / 2 }} {{ 4 / 2 }} {{ 1e308 * 10 }} {{ -1e308 * 10 }} {{ 100000000000000000000 }} {{ 1_000 }} {{ 0x1F }} {{ 0b101 }} {{ 0o17 }}
{{ (1e308 * 10) | tojson }} {{ (1e308 * 10 - 1e308 * 10) | tojson }}
{{ nested | tojson }}
{{ nested | tojson(indent=2) }}
{{ nested | tojson(indent=0) }}|{{ [1, [2]] | tojson(indent='--') }}
{{ nested | tojson(sort_keys=true) }}
{{ nested | tojson(separators=(',', ':')) }}|{{ nested | tojson(separators=[' ; ', ' = '], indent=1) }}
{{ messages[3].content | tojson }}|{{ messages[3].content | tojson(ensure_ascii=true) }}|{{ '\x7f\x1f\u2028"\\/<>&\'' | tojson }}|{{ '\x7f\x1f' | tojson(true) }}
{{ {1: 2, 2.5: 3, true: 4, none: 5} | tojson }}|{{ {'a': (1, 2), 'b': []} | tojson }}|{{ [] | tojson(indent=4) }}|{{ {} | tojson(indent=4) }}
{{ undefined_thing | tojson }}
{{ messages | tojson(indent=4) }}
{{ namespace(a=1) | tojson }}
{{ range(3) | tojson }}
{{ nested.items() | tojson }}
{{ (nested.items() | list) | tojson }}
{{ nested }} {{ nested['items'] }} {{ nested.num }} {{ nested.b.x[2].y }} {{ nested.b.x[-1] }} {{ nested.missing }}|{{ nested['missing'] }}|
{{ nested.items }}
{{ nested.get('a') }} {{ nested.get('zz') }} {{ nested.get('zz', 'd') }} {{ nested.keys() | list }} {{ nested.values() | list | length }}
{% for k, v in nested.items() %}{{ k }}={{ v }};{% endfor %}|{% for k in nested %}{{ k }},{% endfor %}
{{ nested.items() }}|{{ nested.keys() }}
{% for k, v in nested | dictsort %}{{ k }};{% endfor %}|{{ {'b': 1, 'A': 2} | dictsort }}|{{ {'b': 1, 'A': 2} | dictsort(true) }}|{{ {'b': 1, 'A': 2} | dictsort(by='value', reverse=true) }}
{% for k, v in {'x': 1} | items %}{{ k }}{{ v }}{% endfor %}|{{ undefined_thing | items | list }}
{{ ['a', "b'c", 'd"e', 'f\n\t\\', 'é', '\u200b', none, true, 1.0, {'k': (1,)}, ()] }}
{{ 'a' 'b' ~ 1 ~ none ~ true ~ 1.5 ~ [1] ~ undefined_thing }}
{{ 'a' + 1 }}
{{ 1 + 'a' }}
{{ 'a' * 3 }} {{ 3 * 'ab' }} {{ [1] * 2 }} {{ 'a' * 0 }} {{ 'a' * -1 }}
{{ [1] + [2] }} {{ (1,) + (2,) }} {{ [1] + (2,) }}
{{ 7 // 2 }} {{ -7 // 2 }} {{ 7 % 3 }} {{ -7 % 3 }} {{ 7 % -3 }} {{ 7.5 // 2 }} {{ -7.5 % 2 }} {{ 2 ** 10 }} {{ 2 ** -1 }} {{ 2 ** 0.5 }} {{ 2 ** 3 ** 2 }} {{ -2 ** 2 }} {{ true + true }} {{ 5.0 // 2 }}
{{ 1 / 0 }}
{{ 1 % 0 }}
{{ 1 < 2 < 3 }} {{ 3 > 2 > 2 }} {{ 1 < 2 == true }} {{ 'a' < 'b' }} {{ 'B' < 'a' }} {{ [1, 2] < [1, 3] }} {{ 1 < 1.5 }} {{ 'a' in 'abc' in ['abc'] }}
{{ 1 < 'a' }}
{{ none < 1 }}
{{ 'b' in 'abc' }} {{ 'b' not in names }} {{ 'x' in {'x': 1} }} {{ 1 in [1.0] }} {{ '' in 'a' }} {{ 3 in range(5) }} {{ 'a' in undefined_thing }} {{ none in [none] }} {{ 'role' in messages[0] }}
{{ 1 in 'abc' }}
{{ 'a' in 5 }}
{{ not true }} {{ not '' }} {{ not not [] }} {{ true and 'x' }} {{ '' or 'y' }} {{ none or 0 or 'z' }} {{ 1 and 2 and 0 }} {{ not 1 == 2 }} {{ true or undefined_thing.x }}
{{ 'yes' if true else 'no' }} {{ 'yes' if false }}| {{ 'a' if false else 'b' if false else 'c' }} {{ (1 if zero else 2) + 1 }}
{{ undefined_thing }}|{{ undefined_thing is defined }}|{{ undefined_thing | default('d') }}|{{ empty | default('d') }}|{{ empty | default('d', true) }}|{{ none | default('d') }}|{{ zero | d('e', boolean=true) }}
{{ undefined_thing.x }}
{{ undefined_thing['x'] }}
{{ undefined_thing() }}
{{ undefined_thing + 1 }}
{{ undefined_thing ~ 'x' }} {{ undefined_thing | length }} {{ undefined_thing | list }} {{ undefined_thing == undefined_other }} {{ undefined_thing == none }} {{ undefined_thing == '' }} {{ not undefined_thing }}
{{ undefined_thing < 1 }}
{{ -undefined_thing }}
{{ nested.missing.deeper }}
{{ messages[99] }}|{{ messages[99] is defined }}|{{ messages[-1].role }}|{{ 'abc'[5] }}|{{ 'abc'[-1] }}|{{ 'abc'.foo }}|{{ none.x }}|{{ 5 .x }}|{{ nested[['a']] }}
{{ messages[0]['role'] }} {{ messages[0].role }} {{ messages.0.role }} {{ (1, 2)[1] }} {{ 'abc'['1'] }}|{{ names[1.0] }}|{{ names[true] }}
{{ [1,2,3,4,5][1:3] }} {{ [1,2,3,4,5][::-1] }} {{ [1,2,3,4,5][::2] }} {{ [1,2,3,4,5][-2:] }} {{ 'hello'[1:-1] }} {{ 'hello'[::-1] }} {{ 'hello'[10:] }}| {{ emoji[1:3] }} {{ emoji[0] }} {{ (1,2,3)[:2] }} {{ [1,2,3][5:1] }} {{ [1,2,3][2:0:-1] }} {{ range(10)[2:5] | list }} {{ [1,2,3][none:2] }}
{{ nested[1:2] }}
{{ tools[1:2] }}
{{ emoji | length }} {{ emoji | reverse }} {{ emoji.find('b') }} {{ emoji | list }} {{ emoji | first }} {{ emoji | last }} {{ messages[3].content | length }} {{ '%5s|' % '🙂' }} {{ '🙂' | center(5) }}|
{{ tools is none }} {{ documents is none }} {{ tools is defined }} {{ tools is not none }} {% if tools %}T{% else %}F{% endif %} {{ tools | length if tools else 0 }} {{ pad_token is defined }} {{ bos_token }}{{ eos_token }}
{{ true is boolean }} {{ 1 is boolean }} {{ 1 is integer }} {{ true is integer }} {{ 1.0 is integer }} {{ 1.0 is float }} {{ 1 is float }} {{ true is number }} {{ 'a' is number }} {{ 'a' is string }} {{ 1 is string }} {{ nested is mapping }} {{ names is mapping }} {{ names is sequence }} {{ 'a' is sequence }} {{ nested is sequence }} {{ 1 is sequence }} {{ none is none }} {{ empty is none }}
{{ 3 is odd }} {{ 4 is even }} {{ 9 is divisibleby 3 }} {{ 9 is divisibleby(2) }} {{ 1 is eq 1 }} {{ 1 is ne(2) }} {{ 1 is lt 2 }} {{ 2 is ge 2 }} {{ 'a' is in 'abc' }} {{ 'a' is in names }} {{ true is true }} {{ 1 is true }} {{ false is false }} {{ 'abc' is lower }} {{ 'ABC' is upper }} {{ '1' is lower }} {{ none is sameas none }} {{ range is callable }} {{ 'a' is callable }} {{ 1 is equalto 1 }} {{ not 1 is eq 2 }} {{ 1 is not eq 2 }}
{{ 'x' is nosuchtest }}
{{ 'x' | nosuchfilter }}
{{ names | first }} {{ names | last }} {{ [] | first }}| {{ [] | last }}| {{ numbers | max }} {{ numbers | min }} {{ names | max }} {{ names | min }} {{ names | max(case_sensitive=true) }} {{ people | max(attribute='age') }} {{ [] | max }}|
{{ numbers | sum }} {{ people | sum(attribute='age') }} {{ people | sum('age', 10) }} {{ [] | sum }} {{ [[1], [2]] | sum(start=[]) }}
{{ numbers | sort }} {{ names | sort }} {{ names | sort(case_sensitive=true) }} {{ names | sort(reverse=true) }} {{ people | sort(attribute='age') | map(attribute='name') | list }} {{ people | sort(attribute='age,name') | map(attribute='name') | list }} {{ people | sort(attribute='team.id', reverse=true) | map(attribute='name') | join }} {{ nested | sort }}
{{ [1, 'a'] | sort }}
{{ [none, none] | sort }}
{{ names | unique | list }} {{ names | unique(true) | list }} {{ people | unique(attribute='age') | map(attribute='name') | list }} {{ [1, 1.0, true, 2] | unique | list }}
{{ names | reverse | list }} {{ 'abc' | reverse }} {{ names | list | reverse | first }} {{ range(3) | reverse | list }} {{ nested | reverse | list }}
{{ [1,2,3,4,5] | batch(2) | list }} {{ [1,2,3] | batch(2, 'x') | list }} {{ [1,2,3,4,5] | slice(2) | list }} {{ [1,2,3,4,5] | slice(3, 'x') | list }}
{{ people | groupby('age') | map('first') | list }} {% for age, group in people | groupby('age') %}{{ age }}:{{ group | map(attribute='name') | join('+') }};{% endfor %} {% for g in people | groupby('team.id') %}{{ g.grouper }}{{ g.list | length }} {% endfor %}
{{ names | map('upper') | list }} {{ [1.26, 2.34] | map('round', 1) | list }} {{ people | map(attribute='zip', default='-') | list }} {{ names | map('replace', 'b', 'x') | join }} {{ people | map(attribute='team.id') | list }} {{ [[1, 2], [3]] | map('length') | list }}
{{ numbers | select | list }} {{ numbers | select('gt', 1) | list }} {{ numbers | reject('gt', 1) | list }} {{ people | selectattr('age', 'eq', 31) | map(attribute='name') | list }} {{ people | rejectattr('age', 'equalto', 31) | list | length }} {{ people | selectattr('zip') | list }} {{ people | selectattr('zip', 'defined') | list }} {{ messages | selectattr('role', 'in', ['user', 'tool']) | list | length }} {{ numbers | select('odd') | list }} {{ numbers | select('>', 1) | list }} {{ messages | selectattr('role', '==', 'user') | list | length }}
{{ numbers | select }}
{{ numbers | select | length }}
{% set g = names | map('upper') %}{{ g | first }}{{ g | list }}{{ g | list }}
{% for x in numbers | select('gt', 0) %}{{ loop.index }}/{{ loop.length }}:{{ x }} {{ loop.last }};{% endfor %}
{{ 2.5 | round }} {{ 3.5 | round }} {{ 0.125 | round(2) }} {{ 2.675 | round(2) }} {{ 42.55 | round(1) }} {{ 42.55 | round(1, 'floor') }} {{ 42.55 | round(1, 'ceil') }} {{ 5 | round }} {{ 5 | round(1) }} {{ -2.5 | round }} {{ 1234 | round(-2) }} {{ 1250 | round(-2) }} {{ 2.4 | round(0, 'ceil') }} {{ 7 | round(0, 'floor') }} {{ 2.5 | round | int }} {{ -0.4 | round }}
{{ '42' | int }} {{ '4.7' | int }} {{ 'x' | int }} {{ 'x' | int(-1) }} {{ 3.99 | int }} {{ -3.99 | int }} {{ '0x1f' | int(base=16) }} {{ '1f' | int(0, 16) }} {{ ' 12 ' | int }} {{ '1_000' | int }} {{ none | int }} {{ [] | int(9) }} {{ true | int }} {{ '١٢' | int }} {{ '1e3' | int }} {{ '' | int }}
{{ '4.5' | float }} {{ 'x' | float }} {{ 'x' | float(1.5) }} {{ 3 | float }} {{ ' 1e3 ' | float }} {{ 'inf' | float }} {{ none | float }} {{ '1_0.5' | float }} {{ '.5' | float }} {{ '5.' | float }}
{{ -5 | abs }} {{ (-5) | abs }} {{ -2.5 | abs }} {{ 5 | string | length }} {{ none | string }} {{ 1.0 | string }} {{ [1] | string }}
{{ 'a,b,,c'.split(',') }} {{ 'a,b,,c'.split(',', 1) }} {{ ' a  b '.split() }} {{ ' a  b c '.split(none, 1) }} {{ 'a,b,c'.rsplit(',', 1) }} {{ ' a b  c '.rsplit(none, 1) }} {{ 'abc'.split('') if false else 'ok' }} {{ ''.split(',') }} {{ ''.split() }} {{ 'a\nb\r\nc\x0bd\u2028'.splitlines() }} {{ 'a\nb\n'.splitlines(true) }} {{ 'a</think>b</think>c'.split('</think>')[-1] }} {{ 'a,b'.split(sep=',', maxsplit=1) }} {{ 'aXbXc'.split('X', maxsplit=0) }}
{{ 'abc'.split('') }}
{{ 'hello'.startswith('he') }} {{ 'hello'.startswith(('x', 'he')) }} {{ 'hello'.endswith('lo') }} {{ 'hello'.startswith('l', 2) }} {{ 'hello'.endswith('ell', 0, 4) }} {{ 'hello'.startswith('') }} {{ 'hello'.startswith(()) }}
{{ 'hello'.startswith(['he']) }}
{{ 'hello'.replace('l', 'L') }} {{ 'hello'.replace('l', 'L', 1) }} {{ 'hello' | replace('l', '') }} {{ 'hello' | replace('l', 'L', 1) }} {{ 'ab'.replace('', '-') }} {{ 'ab'.replace('', '-', 2) }} {{ 12321 | replace(2, 'x') }} {{ 'aaa'.replace('aa', 'b') }}
{{ 'hello'.find('l') }} {{ 'hello'.rfind('l') }} {{ 'hello'.find('z') }} {{ 'hello'.index('e') }} {{ 'hello'.count('l') }} {{ 'hello'.find('l', 3) }} {{ 'aaa'.count('aa') }} {{ 'abc'.count('') }} {{ 'hello'.find('h', -3) }} {{ 'hello'.find('l', -2) }} {{ 'a-b-c'.partition('-') }} {{ 'a-b-c'.rpartition('-') }} {{ 'abc'.partition('-') }} {{ 'TestHook'.removeprefix('Test') }} {{ 'TestHook'.removesuffix('Hook') }}
{{ 'hello'.index('z') }}
{{ 'abc'.isalpha() }} {{ 'ab1'.isalnum() }} {{ '12'.isdigit() }} {{ '²'.isdigit() }} {{ '²'.isdecimal() }} {{ '½'.isnumeric() }} {{ ' \t'.isspace() }} {{ ''.isspace() }} {{ 'abc'.islower() }} {{ 'ABC'.isupper() }} {{ 'Ab Cd'.istitle() }} {{ 'é'.isascii() }} {{ 'a1'.isidentifier() }} {{ 'a\n'.isprintable() }} {{ '日本'.isalpha() }}
{{ 'ab'.center(7, '*') }} {{ 'abc'.center(6, '*') }} {{ 'ab' | center(7) }}| {{ 'ab'.ljust(5, '.') }} {{ 'ab'.rjust(5) }} {{ '42'.zfill(5) }} {{ '-42'.zfill(5) }} {{ 'abcdef'.ljust(2) }}
{{ '%s and %d' % ('a', 3) }} {{ '%s' % 'x' }} {{ '%.2f' % 3.14159 }} {{ '%5d|%-5d|%05d' % (42, 42, 42) }} {{ '%x %X %o' % (255, 255, 8) }} {{ '%r' % 'a' }} {{ '%(a)s-%(b)s' % {'a': 1, 'b': 2} }} {{ '%%' % () }} {{ '%+d' % 5 }} {{ '%s' % [1] }} {{ '%.1f' % 0.25 }} {{ '%.0f' % 2.5 }} {{ '%d' % 3.9 }} {{ '%s' % none }} {{ '%5.1f|' % 2.25 }} {{ '%.3s' % 'abcdef' }} {{ '%c' % 'z' }} {{ '%i' % true }}
{{ '%s' % (1, 2) }}
{{ '%d' % 'a' }}
{{ '%s %s' % 'a' }}
{{ '%s %s' | format('a', 1) }} {{ '%(x)s' | format(x=5) }}
{{ '{} {}'.format('a', 1) }} {{ '{1} {0}'.format('a', 'b') }} {{ '{x}'.format(x=1) }} {{ '{:.2f}'.format(3.14159) }} {{ '{:>5}|{:<5}|{:^5}|{:*^7}'.format('a', 'b', 'c', 'd') }} {{ '{:05d}'.format(42) }} {{ '{:,}'.format(1234567) }} {{ '{{}}'.format() }} {{ '{!r}'.format('a') }} {{ '{0[a]} {0.a}'.format({'a': 1}) if false else 'ok' }} {{ '{:x}'.format(255) }} {{ '{:.1%}'.format(0.256) }} {{ '{:5}|'.format(3) }} {{ '{:+}'.format(3) }} {{ '{0[1]}'.format([1, 2]) }} {{ '{:,.2f}'.format(12345.678) }}
{{ '{} {}'.format('a') }}
{{ 'a\nb\n\nc' | indent }}| {{ 'a\nb' | indent(2, true) }}| {{ 'a\n\nb' | indent(2, blank=true) }}| {{ 'a\nb' | indent('> ') }}| {{ 'a\nb\n' | indent(width=1) }}|
{{ 'foo bar baz' | truncate(7) }} {{ 'foo bar baz qux' | truncate(9) }} {{ 'foo bar baz qux' | truncate(9, true) }} {{ 'foo bar baz qux' | truncate(9, true, '!', 0) }} {{ 'foo bar' | truncate(5, leeway=0) }}
{{ 'a b  c-d' | wordcount }} {{ 'Hello World' | lower }} {{ 1 | upper }} {{ none | upper }} {{ 12 | length if false else 'ok' }} {{ {'a': 1} | length }} {{ (1, 2) | count }}
{{ 5 | length }}
{{ none | length }}
{{ messages[1].content | e }} {{ messages[1].content | escape }} {{ messages[1].content | safe }} {{ '<a>' | e | e }} {{ '<a>' | safe | e }} {{ '<a>' | e | forceescape }}
{{ nested | attr('items') is callable }} {{ nested | attr('b') is defined }}
{{ range(5) | list }} {{ range(1, 5) | list }} {{ range(5, 1, -2) | list }} {{ range(3) }} {{ range(1, 7, 2) }} {{ range(3)[1] }} {{ range(3) | length }} {{ range(0) | list }} {{ range(3) == range(0, 3) }}
{{ range(100001) | length }}
{{ range('a') }}
{{ range(1.0) }}
{{ dict(a=1, b=2) }} {{ dict([('a', 1)]) }} {{ dict({'x': 1}, y=2) }} {{ {'a': 1, 'a': 2} }} {{ {1: 'a', 1.0: 'b', true: 'c'} }} {{ {}.get('x') }}
{% set ns = namespace(a=1, b='x') %}{% for i in range(3) %}{% set ns.a = ns.a + i %}{% endfor %}{{ ns.a }}{{ ns.b }}{{ ns.c }}|{{ ns['a'] }}{{ ns }}
{% set ns = namespace({'a': 1}) %}{% set ns.z = [1] %}{{ ns.z }}{{ ns.a }}
{% set x = 1 %}{% set x.y = 2 %}
{% set x = 1 %}{% for i in [1] %}{% set x = 2 %}{{ x }}{% endfor %}{{ x }}{% if true %}{% set x = 3 %}{% endif %}{{ x }}
{% for i in [1, 2] %}{{ x }}{% set x = i %}{{ x }}{% endfor %}|{{ x }}
{% for i in [1, 2] %}{% if i == 1 %}{% set y = 'set' %}{% endif %}{{ y }},{% endfor %}
{% set a, b = 1, 2 %}{{ a }}{{ b }}{% set (c, d), e = (3, 4), 5 %}{{ c }}{{ d }}{{ e }}{% set t = 1, %}{{ t }}{% set a, b = b, a %}{{ a }}{{ b }}
{% set a, b = [1, 2, 3] %}
{% set a, b = [1] %}
{% set x %}  block {{ 1 + 1 }} {% endset %}[{{ x }}]{% set y | upper | trim %} up {% endset %}[{{ y }}]
{% set x %}{% set inner = 5 %}{{ inner }}{% endset %}{{ x }}{{ inner }}
{% with a = 1, b = 2 %}{{ a }}{{ b }}{% set c = 3 %}{% endwith %}{{ a }}{{ c }}|{% set a = 5 %}{% with a = 1, b = a %}{{ b }}{% endwith %}{% with %}x{% endwith %}
{% filter upper %}abc {{ 'def' }}{% endfilter %}|{% filter replace('a', 'b') | trim %} a {% endfilter %}|
{% macro m(a, b=2, c='x') %}[{{ a }}{{ b }}{{ c }}]{% endmacro %}{{ m(1) }}{{ m(1, 3) }}{{ m(1, c=5) }}{{ m(b=1, a=0) }}{{ m() }}
{% macro m(a) %}{{ a }}{{ varargs }}{{ kwargs }}{% endmacro %}{{ m(1, 2, 3, x=4) }}
{% macro m(a) %}{{ a }}{% endmacro %}{{ m(1, 2) }}
{% macro m(a) %}{{ a }}{% endmacro %}{{ m(b=2) }}
{% macro m(a, b=a) %}{{ a }}{{ b }}{% endmacro %}{{ m(1) }}
{% macro fac(n) %}{% if n <= 1 %}1{% else %}{{ n * (fac(n - 1) | int) }}{% endif %}{% endmacro %}{{ fac(10) }}
{% macro m() %}{{ outer }}{% endmacro %}{% set outer = 'late' %}{{ m() }}
{% macro m() %}{{ x }}{% endmacro %}{% for x in [1] %}{{ m() }}|{% endfor %}
{% macro wrap(tag) %}<{{ tag }}>{{ caller() }}</{{ tag }}>{% endmacro %}{% call wrap('b') %}hi {{ bos_token }}{% endcall %}
{% macro each(items) %}{% for i in items %}{{ caller(i, loop.index) }}{% endfor %}{% endmacro %}{% call(x, n) each(names) %}{{ n }}{{ x }} {% endcall %}
{% macro m(a, b) %}{% endmacro %}{{ m.name }} {{ m.arguments }} {{ m.catch_kwargs }} {{ m.caller }}
{% macro a() %}A{{ b() }}{% endmacro %}{% macro b() %}B{% endmacro %}{{ a() }}
{% macro a(x) %}{{ x }}{% endmacro %}{% set s = a('q') %}{{ s | upper }}{{ s == 'q' }}{{ s is string }}{{ a(*['z']) }}{{ a(**{'x': 'k'}) }}
{% for i in [1, 2, 3] %}{{ loop.index }}{{ loop.index0 }}{{ loop.revindex }}{{ loop.revindex0 }}{{ loop.first }}{{ loop.last }}{{ loop.length }}{{ loop.depth }}{{ loop.previtem }}{{ loop.nextitem }};{% endfor %}
{% for i in [1, 2, 3] %}{{ loop.cycle('a', 'b') }}{{ loop.previtem is defined }}{{ loop.nextitem is undefined }}{% endfor %}
{% for i in [1, 1, 2] %}{{ loop.changed(i) }}{% endfor %}
{% for i in [] %}x{% else %}empty{% endfor %}|{% for i in undefined_thing %}x{% else %}none{% endfor %}
{% for i in none %}x{% endfor %}
{% for i in 5 %}x{% endfor %}
{% for i in [1, 2, 3, 4] if i is even %}{{ i }}{{ loop.index }}{{ loop.length }}{{ loop.last }};{% else %}e{% endfor %}
{% for i in [1, 3] if i is even %}{{ i }}{% else %}no even{% endfor %}
{% for n in tree recursive %}{{ n.v }}@{{ loop.depth }}{% if n.c %}({{ loop(n.c) }}){% endif %}{% endfor %}
{% for n in tree %}{{ loop(n.c) }}{% endfor %}
{% for a in [1, 2] %}{% set outer = loop %}{% for b in [1, 2] %}{{ outer.index }}{{ loop.index }} {% endfor %}{% endfor %}
{% for (a, b), c in [((1, 2), 3)] %}{{ a }}{{ b }}{{ c }}{% endfor %}{% for a, b in ['xy', 'zw'] %}{{ b }}{{ a }}{% endfor %}
{% for a, b in [(1, 2, 3)] %}{% endfor %}
{% for c in 'a🙂b' %}[{{ c }}]{% endfor %}{% for i in range(3) %}{{ i }}{% endfor %}{% for x in (1, 2) %}{{ x }}{% endfor %}{% for x in 1, 2 %}{{ x }}{% endfor %}
{% if false %}a{% elif true %}b{% else %}c{% endif %}{% if 0 %}a{% elif '' %}b{% else %}c{% endif %}{% if messages and messages[0].role == 'system' %}s{% endif %}
line one\n{{ 'tab\tquote\'dq"bs\\u\u00e9x\x41o\101bell\q' }}
{% generation %}gen {{ 1 }}{% set z = 1 %}{% endgeneration %}{{ z }}|{%- generation -%} x {%- endgeneration -%} y
{% for m in messages %}{% if m.role == 'assistant' %}{% generation %}{{ m.content | trim }}{{ loop.index }}{% endgeneration %}{% endif %}{% endfor %}
{{ raise_exception('stop: ' ~ messages | length) }}
{{ strftime_now('%Y-%m-%d %H:%M:%S %d %b %B %a %A %j %y %I %p %e %-d %% %F %T') }}
{{ names.append('x') }}
{% set _ = nested.update({'q': 1}) %}
{{ names.pop() }}
{{ nested.pop('a') }}
{{ ''.__class__ }}
{{ ''.__class__.__mro__ }}
{{ names.__len__() }}
{{ names.index('A') }} {{ names.count('a') }} {{ names.copy() }} {{ (1, 2, 1).count(1) }}
{{ cycler('a', 'b').next() }} {% set c = cycler(1, 2) %}{{ c.next() }}{{ c.next() }}{{ c.current }}{{ c.next() }}{% set j = joiner('|') %}{{ j() }}a{{ j() }}b
{{ {'a': {'b': [10, 20]}}.a.b[1] }} {{ [[1, 2], [3, 4]][1][0] }} {{ 'abc'.upper().lower().title() }} {{ ('a', 'b')[0] ~ [1][0] }}
{{ 1 if 'a' in 'abc' and not false or none else 2 }} {{ (1 == 1) ~ '' }} {{ -1 }} {{ +1 }} {{ - 1 + 2 }} {{ 2 - -1 }} {{ 1 -1 }} {{ 3 -2 | abs }} {{ 2 * 3 + 4 * 5 }} {{ 'a' ~ 1 + 2 }} {{ 10 - 2 - 3 }} {{ 2 ~ 3 * 2 }}
{{ true }} {{ True }} {{ false }} {{ False }} {{ none }} {{ None }} {{ [true, none] }}
{{ (1) }} {{ (1,) }} {{ () }} {{ [] }} {{ {} }} {{ [1, 2,] }} {{ {'a': 1,} }} {{ 1, 2 }} {{ [(1, 'a')] }}
{% print 'printed' %}{% print 1, 2 %}
{{ text is string and text.strip() != '' }}{{ 'x' if messages[2].tool_calls is none }}{{ messages[2].tool_calls is defined and messages[2].tool_calls is not none }}
{{ messages | map(attribute='role') | select('equalto', 'user') | list | length }}{{ (messages | selectattr('role', 'equalto', 'assistant') | list | last).content.split('</think>')[-1].lstrip('\n') }}|
{{ messages[1:] | length }}{{ messages[::-1][0].role }}{{ (messages | last).role }}{{ messages[-2:] | map(attribute='role') | join }}
{{ 'A' if namespace(x=none).x is none else 'B' }}{{ namespace() is defined }}{{ namespace is callable }}
{{ '\n' }}|{{ '\\n' }}|{{ "\"" }}|{{ '\'' }}|{{ '{{' }}|{{ '%}' }}|{{ '}}' }}
{{ {'a': {'b': {}}} }}{{ {'k': '}}'}['k'] }}{{ {'a':{'b':1}}}}
{{ 'x' is defined and 1 }} {{ nested.b is defined }} {{ nested.q is defined }} {{ nested['b']['x'] is defined }} {{ undefined_thing is undefined }}
{{ 'Content: ' + messages[0].content | trim + '!' }}
{{ '<|' + 'a' + '|>' ~ '\n' }}{{ ('a' if true else 'b') + 'c' }}{{ 'a' if true else 'b' + 'c' }}
{{ 9007199254740993 + 1 }} {{ 2 ** 64 }} {{ 10 ** 20 // 3 }} {{ (2 ** 70) % 1000 }} {{ 2 ** 53 + 0.0 }} {{ 12345678901234567890 | tojson }}
{{ 'ab' is eq 'ab' }} {{ 'x' == "x" }} {{ 1.5 == 3 / 2 }} {{ 0.1 + 0.2 == 0.3 }} {{ [1, 'a', none] == [1, 'a', none] }} {{ {'a': 1, 'b': 2} == {'b': 2, 'a': 1} }}
{{ nested | list }} {{ nested | first }} {{ 'abc' | list }} {{ nested.b | length }} {{ nested | join(',') }} {{ {'a': 1}.items() | first }} {{ {'a': 1}.values() | sum }} {{ nested.keys() | length }} {{ 'a' in nested.keys() }}
{{ nested.items()[0] }}|{{ (nested | dictsort)[0][0] }}
{% for k, v in {'b': 1, 'a': 2}.items() | sort %}{{ k }}{{ v }}{% endfor %}{% for k in {'b': 1, 'a': 2} | sort %}{{ k }}{% endfor %}{{ {'b': 1, 'a': 2}.items() | sort(attribute='1') }}
{% if 'user' == messages[1]['role'] %}{{ '[INST] ' + messages[1]['content'] | string + ' [/INST]' }}{% endif %}
{{ 'a' | default }}|{{ undefined_thing | default }}|{{ undefined_thing | default(none) }}|{{ undefined_thing | d(0) }}|{{ nested.zip | default('none') }}|{{ (nested.zip or {}).x | default('q') }}
{% break %}
{% for i in [1] %}{% macro q() %}{% break %}{% endmacro %}{% endfor %}
{% for i in [1] %}{% generation %}{% continue %}{% endgeneration %}{% endfor %}
{% endfor %}
{% if true %}
{% for %}x{% endfor %}
{{ 1 + }}
{{ (1 }}
{{ 'abc }}
{{ a b }}
{{ foo( }}
{% nosuchtag %}
{{ 1 is is 2 }}
{{ x | }}
{% set 1 = 2 %}
{% set true = 2 %}
{{ {1 2} }}
{# never ends
{% raw %} x
{{ 08 }}
{{ m(1, 2=3) }}
{{ [1 2] }}
{% include 'x' %}
{% extends 'x' %}
{% do names %}
{% else %}
{% if 1 %}a{% else %}b{% else %}c{% endif %}
"""


#: Several lines each, with a line of "=====" between them.
BLOCKS = r"""
{# comment #}a{#- strip -#} b {#
multi #}c
=====
{% raw %} {{ not }} {% a %}{% endraw %} x {%- raw -%}  y  {%- endraw -%}  z
=====
{% raw %}
a
{% endraw %}
b
=====
  {% if true %}
  indented
  {% endif %}
end
=====
a {% if true %} b {% endif %} c
	{% if true %}	tab {% endif %}
a {%- if true %} b {%- endif %} c {{- ' d' }} {{ 'e ' -}} f
=====
x
  {%+ if true %}kept{% endif +%}

y
=====
{{ 'a' }}
{{ 'b' -}}

{{ 'c' }}
=====
  {{ 'not stripped' }}
  {# stripped #}
  {%- if true -%}

  z
  {%- endif %}

=====
{%- for m in messages -%}
    {{ m.role }}

{%- endfor -%}

tail
=====
{{ "a\
b" }}|{{ 'multi
line' }}
=====
{% set x %}
  a
  b
{% endset %}
[{{ x }}]
=====
{% macro row(k, v='-') %}
  {{ k }}: {{ v }}
{% endmacro %}
{{ row('a') }}
{{ row('b', 2) }}
=====
{# a
   b #}

{#- c -#}

d {# e #} f
{# g -#}
h
=====
{% for x in [1, 2] %}
{{ x }}
{% endfor %}

{% for x in [] -%}
{% else %}
none
{%- endfor %}
=====
a{% if true +%}
b
{% endif -%}
c
=====
{% if true %}{# c #}
x
{% endif %}{{ 'y' }}
{% set a = {
  'k': [1,
        2],
} %}
{{ a }}
=====
{%- set s -%}
   x
{%- endset -%}
[{{ s }}]
=====
\x{{ 'a' }}

=====
  {%- if true %}
 a
  {%- endif %}
 b
=====
{{- 'x' -}}   {{- 'y' -}}
  z  {{- 'w' }}  
=====
   {% set q = 1 -%}
   {{ q }}   {#- c #}   
  end   
"""

#: Line ends as other systems write them, and what an editor may leave at the end.
LINE_ENDS = [
    "a\r\n{% if true %}\r\nb\r\n{% endif %}\r\nc",
    "a\r{% if true %}\rb\r{% endif %}\rc\r",
    "a\n\n",
    "a\r\n\r\n",
    "{{ 'x\r\ny' }}",
    "{% set x = 'a\r\nb' %}{{ x | length }}\r\n",
    "{# c #}\r\nx",
    "\ufeff{{ 1 }}",
    "a\u2028{% if true %}b{% endif %}",
    "\u3000{% if true %}b{% endif %}\u3000{%- if true %}c{% endif %}",
    "a \x0b{%- if true -%}\x1c b{% endif %}",
    "",
    "\n",
]

TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "description": "Weather of a city, in <b>°C</b> & more",
            "parameters": {
                "type": "object",
                "properties": {
                    "city": {"type": "string", "description": "Its name"},
                    "days": {"type": "integer", "default": 1, "enum": [1, 2, 3]},
                    "limit": {"type": "number", "maximum": 0.5},
                    "deep": {"type": "object", "properties": {"items": {"type": "array", "items": {"type": "string"}}}},
                },
                "required": ["city"],
            },
        },
    },
    {"type": "function", "function": {"name": "now", "description": "", "parameters": {"type": "object", "properties": {}}}},
]


def call(name, arguments, id="call00001"):
    return {"id": id, "type": "function", "function": {"name": name, "arguments": arguments}}


CONVERSATIONS = {
    "user": [{"role": "user", "content": "Hi"}],
    "system": [{"role": "system", "content": "Be brief. "}, {"role": "user", "content": " Hi\n"}],
    "turns": [
        {"role": "user", "content": "1+1?"},
        {"role": "assistant", "content": "<think>\nadd\n</think>\n\n2"},
        {"role": "user", "content": "ünd 🙂?"},
        {"role": "assistant", "content": "    def f():\n        pass\n"},
        {"role": "user", "content": "more"},
    ],
    "answered": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yo", "reasoning_content": "say yo"}],
    "called": [
        {"role": "user", "content": "Weather?"},
        {"role": "assistant", "content": None, "tool_calls": [call("get_weather", {"city": "Köln", "days": 2, "limit": 0.25, "deep": {"a": [1, None, True]}})]},
        {"role": "tool", "content": '{"t": 21.5}', "tool_call_id": "call00001", "name": "get_weather"},
    ],
    "called twice": [
        {"role": "system", "content": "You can call."},
        {"role": "user", "content": "Weather and time?"},
        {"role": "assistant", "content": "Let me see.", "reasoning_content": "two calls", "tool_calls": [call("get_weather", {"city": "A\"B"}), call("now", {}, "call00002")]},
        {"role": "tool", "content": "21", "tool_call_id": "call00001", "name": "get_weather"},
        {"role": "tool", "content": "noon", "tool_call_id": "call00002", "name": "now"},
        {"role": "assistant", "content": "21 at noon"},
        {"role": "user", "content": "thanks"},
    ],
    "arguments as text": [
        {"role": "user", "content": "x"},
        {"role": "assistant", "content": "", "tool_calls": [call("now", "{}")]},
        {"role": "tool", "content": "12"},
    ],
    "parts": [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "image"}, {"type": "text", "text": "b"}]}],
    "two systems": [
        {"role": "system", "content": "a"},
        {"role": "user", "content": "b"},
        {"role": "system", "content": "c"},
        {"role": "user", "content": "d"},
    ],
    "no user": [{"role": "system", "content": "a"}],
    "assistant first": [{"role": "assistant", "content": "a"}, {"role": "user", "content": "b"}],
}

#: What differs between renderings of one conversation.
SETTINGS = [
    {"add_generation_prompt": True},
    {"add_generation_prompt": False},
    {"add_generation_prompt": True, "tools": TOOLS},
    {"add_generation_prompt": True, "enable_thinking": False},
    {"add_generation_prompt": True, "reasoning_effort": "low", "documents": [{"title": "T", "text": "x"}]},
    {"add_generation_prompt": True, "reasoning_effort": "nonsense", "tools": []},
]


def outcome(env, source, variables):
    try:
        return {"text": env.from_string(source).render(**variables)}
    except Exception as error:  # every kind of failure is a result here
        return {"error": type(error).__name__}


def features():
    lines = [line for line in FEATURES.split("\n") if line]
    blocks = BLOCKS[1:-1].split("\n=====\n")
    single = []
    for line in lines:
        # One failing expression would hide its neighbours.
        if "{%" not in line and line.count("{{") > 1:
            single += re.findall(r"\{\{.*?\}\}", line)
    return list(dict.fromkeys(lines + single + blocks + LINE_ENDS))


def main():
    env = environment()
    records = [{"template": source, **outcome(env, source, CONTEXT)} for source in features()]
    records = [record for record in records if " at 0x" not in record.get("text", "")]
    sources = {path.stem: path.read_text(encoding="utf-8") for path in sorted((HERE / "chat-templates").glob("*.jinja"))}
    chats = []
    for template, source in sources.items():
        for conversation, messages in CONVERSATIONS.items():
            for setting, more in enumerate(SETTINGS):
                variables = {"tools": None, "documents": None, "bos_token": "<s>", "eos_token": "</s>", **more, "messages": messages}
                chats.append({"template": template, "conversation": conversation, "setting": setting, **outcome(env, source, variables)})
    OUT.mkdir(parents=True, exist_ok=True)
    written = {}

    def write(name, value):
        data = (json.dumps(value, indent=1, ensure_ascii=False) + "\n").encode("utf-8", "surrogatepass")
        (OUT / name).write_bytes(data)
        written[name] = hashlib.sha256(data).hexdigest()

    write("features.json", {"context": CONTEXT, "features": records})
    write("chats.json", {"templates": sources, "conversations": CONVERSATIONS, "settings": SETTINGS, "chats": chats})
    origin = {
        "what": "what Python's Jinja2, set up as transformers 5 does it, makes of our own template features and templates",
        "command": "python scripts/golden/chat-template-features.py",
        "libraries": {"jinja2": jinja2.__version__, "python": platform.python_version()},
        "sha256": written,
    }
    (OUT / "ORIGIN.json").write_text(json.dumps(origin, indent=1) + "\n", encoding="utf-8")
    print(len(records), "features,", sum("error" in r for r in records), "of them errors;", len(chats), "chats")


if __name__ == "__main__":
    main()
