"""``python -m agf_fx`` is ``agf-fx``."""

from agf_fx.cli import main

main()
