"""``python -m causal_lvlm`` is the same as ``causal-lvlm``."""

from __future__ import annotations

from causal_lvlm.cli import main

if __name__ == "__main__":
    main()
