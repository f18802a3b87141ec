"""Make the report of a sweep again from its folder, say with another metric.

python scripts/report.py multirun/2026-01-31/12-00-00 [--report coordinate_check] [--metric
train_loss]
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # works from a checkout that is not installed

from mupl.errors import ConfigError
from mupl.identity import METRICS
from mupl.sweep.reports import REPORTS, get_report


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("sweep", type=Path, help="the sweep's folder")
    parser.add_argument("--report", choices=REPORTS, default="hyperparameter_transfer")
    parser.add_argument("--metric", choices=METRICS, default="val_loss")
    arguments = parser.parse_args()
    if not arguments.sweep.is_dir():
        parser.error(f"{arguments.sweep} is no folder")
    try:
        return get_report(arguments.report)(arguments.sweep, arguments.metric)
    except ConfigError as error:
        parser.error(str(error))


if __name__ == "__main__":
    sys.exit(main())
