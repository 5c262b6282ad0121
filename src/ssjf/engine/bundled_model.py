"""Where the bundled tiny model lies; what it can do is in `bundled/card.json` beside it."""

from pathlib import Path

BUNDLED_MODEL_NAME = "ssjf-tiny"
BUNDLED_MODEL_PATH = Path(__file__).parent / "bundled" / "tiny.gguf"
