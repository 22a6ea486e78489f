"""Draw the trit balance and the loss over training from a run's history.

    python picture.py docs/default-model        reads history.json there, writes trit-balance.png and loss.png
"""

import json
import os
import sys

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

# Colours 1, 2 and 3 of seed 1069.
MINUS, ERGODIC, PLUS = "#6404C3", "#EB6AF7", "#7F1747"
INK, GRID = "#222222", "#dddddd"
KINDS = ["q", "k", "v", "o", "gate", "up", "down"]

plt.rcParams.update(
    {
        "font.size": 10,
        "text.color": INK,
        "axes.edgecolor": "#888888",
        "axes.labelcolor": INK,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.titlesize": 11,
        "axes.titleweight": "bold",
        "axes.titlelocation": "left",
        "xtick.color": INK,
        "ytick.color": INK,
    }
)


def share(counts):
    total = sum(counts)
    return [100 * c / total for c in counts]


def matrix_label(name):
    parts = name.split(".")
    return int(parts[2]), parts[4].removesuffix("_proj")


def draw_balance(history, path):
    marks = history["trits"]
    steps = [m["step"] for m in marks]
    names = list(marks[0]["counts"])
    total = [share([sum(c) for c in zip(*m["counts"].values())]) for m in marks]
    layers = 1 + max(matrix_label(n)[0] for n in names)

    fig = plt.figure(figsize=(12, 11.5), dpi=100, facecolor="white")
    grid = fig.add_gridspec(2, 3, height_ratios=[1, 1.7], hspace=0.27, wspace=0.1, left=0.065, right=0.955, top=0.925, bottom=0.065)
    fig.suptitle("Trit balance of the default model's ternary matrices over training", x=0.065, ha="left", fontsize=14, fontweight="bold")

    ax = fig.add_subplot(grid[0, :2])
    for i, colour in enumerate((MINUS, ERGODIC, PLUS)):
        for n in names:  # one thin line for every matrix
            ax.plot(steps, [share(m["counts"][n])[i] for m in marks], color=colour, lw=0.6, alpha=0.22)
    for i, (label, colour, style) in enumerate((("-1", MINUS, "-"), ("0", ERGODIC, "-"), ("+1", PLUS, "--"))):
        ax.plot(steps, [t[i] for t in total], color=colour, lw=2.6, ls=style, label=f"{label}: {total[0][i]:.1f} % to {total[-1][i]:.1f} %")
    low, high = ax.get_ylim()
    high += 0.22 * (high - low)  # room for the legend above the lines
    ax.set_ylim(low, high)
    ax.axvline(steps[-1] / 2, color="#999999", lw=1, ls=":", ymax=0.82)
    ax.text(steps[-1] / 2, low + 0.81 * (high - low), " rate drops, weight decay ends", va="top", fontsize=9, color="#555555")
    ax.set(title="Share of the trits (thick: all; thin: each of the %d matrices)" % len(names), xlabel="step", ylabel="% of the trits", xlim=(0, steps[-1]))
    ax.grid(color=GRID, lw=0.6)
    ax.legend(frameon=False, loc="upper left", ncol=3, handlelength=2.6)

    ax = fig.add_subplot(grid[0, 2])
    changed = [(m["step"], 100 * m["changed"]) for m in marks if m["changed"] is not None]
    width = 0.7 * (steps[1] - steps[0])
    ax.bar([s for s, _ in changed], [c for _, c in changed], width=width, color=MINUS)
    ax.set(title="Trits changed since the last mark", xlabel="step")
    ax.yaxis.set_major_formatter("{x:.0f} %")
    ax.yaxis.tick_right()
    ax.spines.left.set_visible(False)
    ax.grid(axis="y", color=GRID, lw=0.6)
    ax.set_axisbelow(True)

    # Layer by layer at the start, in the middle and at the end.
    for column, (title, mark) in enumerate((("Start", marks[0]), ("Middle", marks[len(marks) // 2]), ("End", marks[-1]))):
        ax = fig.add_subplot(grid[1, column])
        ticks, labels = [], []
        for n in names:
            layer, kind = matrix_label(n)
            y = layer * (len(KINDS) + 1) + KINDS.index(kind)
            left = 0
            values = share(mark["counts"][n])
            for value, colour in zip(values, (MINUS, ERGODIC, PLUS)):
                ax.barh(y, value, left=left, color=colour, height=0.86)
                left += value
            ax.text(values[0] + values[1] / 2, y, f"{values[1]:.0f}", ha="center", va="center", fontsize=7.5, color="#33003a")
            ticks.append(y)
            labels.append(f"{layer} {kind}" if kind == "q" else kind)
        ax.set_yticks(ticks, labels if column == 0 else [""] * len(labels), fontsize=8)
        ax.tick_params(axis="y", length=0)
        ax.set(title=f"{title} (step {mark['step']})", xlim=(0, 100), ylim=(layers * (len(KINDS) + 1) - 1.2, -0.8))
        ax.set_xticks([0, 25, 50, 75, 100], ["0", "25", "50", "75", "100"])
        ax.spines.left.set_visible(False)
        if column == 0:
            ax.set_ylabel("layer and projection")
    fig.text(0.51, 0.018, "% of the trits of a matrix.   left: -1     middle: 0, with its share     right: +1", ha="center", fontsize=9, color="#555555")
    fig.savefig(path)
    plt.close(fig)


def draw_loss(history, path):
    log, marks = history["log"], history["trits"][1:]
    fig, ax = plt.subplots(figsize=(10, 4.6), dpi=110, facecolor="white")
    per = history["tokens_per_step"] / 1e6
    ax.plot([r["step"] * per for r in log], [r["loss"] for r in log], color=MINUS, lw=1.6, label="training rows (the mix changes at 60 %)")
    ax.plot([m["step"] * per for m in marks], [m["held_out_loss"] for m in marks], color=PLUS, lw=1.6, marker="o", ms=4, label="held-out documents, up to four rows a source")
    last = history["steps"] * per
    low = min(min(r["loss"] for r in log), min(m["held_out_loss"] for m in marks))
    ax.set(xlabel="million tokens seen", ylabel="nats per token", xlim=(0, last), ylim=(low * 0.93, min(4.6, log[0]["loss"])))
    for at, text in ((0.5, "rate drops,\nweight decay ends"), (0.6, "simpler\nmix")):
        ax.axvline(at * last, color="#999999", lw=1, ls=":")
        ax.text(at * last, ax.get_ylim()[1], " " + text.replace("\n", "\n "), va="top", fontsize=9, color="#555555", ha="right" if at == 0.5 else "left")
    ax.set_title("Loss of the default model")
    ax.grid(color=GRID, lw=0.6)
    ax.legend(frameon=False, loc="upper right", bbox_to_anchor=(1, 0.86))
    fig.tight_layout()
    fig.savefig(path)
    plt.close(fig)


def draw(folder):
    with open(os.path.join(folder, "history.json")) as f:
        history = json.load(f)
    draw_balance(history, os.path.join(folder, "trit-balance.png"))
    draw_loss(history, os.path.join(folder, "loss.png"))


if __name__ == "__main__":
    draw(sys.argv[1])
