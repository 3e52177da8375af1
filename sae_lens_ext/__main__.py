"""`python -m sae_lens_ext` is the command `sae-lens-ext`."""

from sae_lens_ext.cli import main

raise SystemExit(main())
