"""`python -m gato.cli`, which `torchrun` and `accelerate launch` start too."""

import sys

from . import main

sys.exit(main())
