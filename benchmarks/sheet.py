"""Draws every held-out picture of one split, as an evaluation lists them, on one sheet: the model's caption, the title below it.

gato eval CKPT --tasks none --captions STORE --caption_examples 1000
python benchmarks/sheet.py CKPT/eval.json unseen_photo sheet.png
"""

import json
import sys
import textwrap
from base64 import b64decode
from io import BytesIO

from PIL import Image, ImageDraw, ImageFont

COLUMNS, PICTURE, MARGIN, LINE, LINES = 10, 96, 8, 12, 3
OURS, TITLE = (20, 60, 160), (90, 90, 90)


def sheet(examples: list[dict[str, str]]) -> Image.Image:
    """A grid of `COLUMNS`; texts that need more than `LINES` lines end in "..."."""
    width, height = PICTURE + 2 * MARGIN, PICTURE + 2 * MARGIN + 2 * LINES * LINE
    rows = -(-len(examples) // COLUMNS)
    canvas = Image.new("RGB", (COLUMNS * width, rows * height), "white")
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(10)
    for i, example in enumerate(examples):
        x, y = i % COLUMNS * width + MARGIN, i // COLUMNS * height + MARGIN
        picture = Image.open(BytesIO(b64decode(example["image"]))).convert("RGB")
        picture.thumbnail((PICTURE, PICTURE))
        canvas.paste(picture, (x + (PICTURE - picture.width) // 2, y + (PICTURE - picture.height) // 2))
        for k, (text, colour) in enumerate(((example["caption"], OURS), (example["title"], TITLE))):
            lines = textwrap.wrap(text or "(nothing)", 18, max_lines=LINES, placeholder="...")
            draw.text((x, y + PICTURE + 2 + k * LINES * LINE), "\n".join(lines), colour, font, spacing=1)
    return canvas


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    with open(sys.argv[1], encoding="utf-8") as file:
        parts = json.load(file)["captions"]
    found = [part for part in parts if part["split"] == sys.argv[2]]
    if not found:
        sys.exit(f"{sys.argv[1]} has no split '{sys.argv[2]}'; it has {', '.join(part['split'] for part in parts)}")
    sheet(found[0]["examples"]).save(sys.argv[3], optimize=True)
