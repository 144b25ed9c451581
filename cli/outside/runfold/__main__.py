"""`python -m runfold`: the command line."""

import sys

from runfold.start import main

sys.exit(main())
