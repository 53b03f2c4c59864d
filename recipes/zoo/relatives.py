"""Make the null that `scan --origin` makes by itself, for the data sets of the zoo's test half.

    python recipes/zoo/relatives.py --data-root PATH --data gtsrb [--count 19]

Clean relatives of the embedded model on the pictures that the zoo's members are examined with, each examined as they
were. The rows are kept in docs/lab/cells, in relatives-NAME.jsonl, so that a killed run goes on;
`recipes/figures/relatives.py` judges the recorded members under them.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from unbackdoor.base.draws import permutation
from unbackdoor.base.work import Work
from unbackdoor.bench.material import case_of, images_of
from unbackdoor.bench.zoo.recipe import CLEAN, classes_of, members, read_zoo
from unbackdoor.clip.load import load
from unbackdoor.scan.detection import Null, Origin, architecture
from unbackdoor.scan.examine import Examination, settings
from unbackdoor.scan.inverters import inverter_names
from unbackdoor.scan.own_null import Making, grown
from unbackdoor.scan.relatives import Kin
from unbackdoor.weights.files import state_hash

ROOT = Path(__file__).parent.parent.parent
CELLS = ROOT / "docs/lab/cells"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--data-root", type=Path, required=True)
    parser.add_argument("--data", required=True, help="a data set of the zoo, by its name there")
    parser.add_argument("--count", type=int, default=19)
    args = parser.parse_args()
    plan, base = read_zoo(ROOT / "recipes/zoo/embedded.yaml", args.data_root), load("embedded")
    weights = state_hash(base.state())
    own = [m["config"] for m in members(plan, weights, classes_of(plan)) if m["names"]["data"] == args.data]
    clean = next(config for config in own if config["trigger"] is None)
    entry = next(half.data[args.data] for half in plan.halves.values() if args.data in half.data)
    train, _ = images_of(entry, base.frame)
    images = train.subset(permutation(len(train), plan.seed)[: plan.images])
    head = case_of(clean).head(base, train)
    identity, names = settings(plan.images, inverter_names(), weights), tuple(inverter_names())
    blank = Null(architecture(base.state()), identity, names, (), (), Origin(plan.model, weights))
    making = Making(train.classes, Examination(names, seed=plan.seed), blank, CELLS / f"relatives-{args.data}.jsonl")
    kin = Kin(base, images, images.labels, head, plan.seed)
    folder = Path(tempfile.gettempdir()) / f"relatives-{args.data}"
    folder.mkdir(exist_ok=True)
    work = Work(folder, f"{args.data} {weights}")
    null = grown(kin, making, args.count, lambda _: False, lambda _: True, work)
    print(f"{args.data}: {len(null.rows)} relatives, {CLEAN} by construction")


if __name__ == "__main__":
    main()
