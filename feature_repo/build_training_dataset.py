"""`python build_training_dataset.py`: features and labels of every snapshot, in data/processed.

For people who stand in this folder, as in `docker compose exec feast`. Options are those of
`make training-set`, for example --as-of 2024-01-31.
"""

import sys

from orchestration.training_set import main

if __name__ == "__main__":
    sys.exit(main(["--as-of", "0001-01-01..9999-12-31", *sys.argv[1:]]))
