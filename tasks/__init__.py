"""What: the stages of the pipeline, one file each, and the libraries below them."""

import os
import sys

# `python -m tasks.sft`, started by a flow: it hands itself over here, before the imports that this is to spare.
if "PLUMBLINE_WARM" in os.environ and sys.argv[0] == "-m":
    from tasks.adapters import warm

    warm.hand_over_stage()
