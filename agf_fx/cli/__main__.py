"""``python -m agf_fx.cli`` is ``agf-fx``."""

from agf_fx.cli import main

main()
