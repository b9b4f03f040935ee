"""What a report says of augmentation: each field's verdict, with examples."""

from __future__ import annotations

from typing import Any

from tlkit.data.augment import augment
from tlkit.plan.augmentation import augmentation_from_dict
from tlkit.plan.plan import Plan
from tlkit.reporting.album import SHOWN, _Album, as_data


def _safety(plan: Plan, album: _Album) -> dict[str, Any]:

    found = plan.decision("augmentation")
    if found is None:
        quiet = "This recipe varies no pictures, so nothing was checked."
        line = f"{quiet} To see what your classes bear: tlkit augment {plan.job.data} --check."
        return {"lines": [line], "rows": [], "figures": []}
    rows, figures = [], []
    for name, one in found.evidence["fields"].items():
        pair = one["pairs"][0] if one["pairs"] else None
        rows.append(
            {
                "field": name,
                "verdict": one["verdict"] + (" (allowed)" if one["allowed"] else ""),
                "asked": f"{one['asked']:g}",
                "limit": "" if one["limit"] is None else f"{one['limit']:g}",
                "pair": f"{pair[0]} becomes {pair[1]}, {pair[2]:.0%}" if pair else "",
                "why": f"{one['why']} (n = {one['n']})",
            }
        )
        for example in one["examples"] if one["verdict"] in ("unsafe", "limited") else ():
            picture, nearest = album.of_key(example["picture"]), album.of_key(example["nearest"])
            settings = {k: tuple(v) if isinstance(v, list) else v for k, v in example["augmentation"].items()}
            moved = (
                None if picture is None else augment(picture, augmentation_from_dict(settings), tuple(example["seed"]))
            )
            figures.append(
                {
                    "pictures": [
                        as_data(picture, f"a {example['label']} as it is"),
                        as_data(moved, f"the same with {name}"),
                        as_data(nearest, f"the nearest {example['became']}"),
                    ],
                    "said": f"{name}: {example['label']}, transformed, is nearest to this {example['became']}",
                    "path": "",
                }
            )
    order = ["unsafe", "limited", "not_measurable", "safe"]
    rows.sort(key=lambda row: order.index(row["verdict"].split(" ")[0]))
    return {"lines": [found.why], "rows": rows, "figures": figures[:SHOWN]}
