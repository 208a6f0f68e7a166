"""The dataset card, README.md, for Hugging Face `datasets` and for people."""

from __future__ import annotations

import json
from typing import Any

import pyarrow as pa
import yaml

from raypipe.export.export_plan import ExportPlan


def dataset_card(plan: ExportPlan, schema: pa.Schema) -> bytes:
    """README.md with the configuration, the features, and the number of pictures per split."""
    features: dict[str, Any] = json.loads(schema.metadata[b"huggingface"])["info"]["features"]
    header = {
        "configs": [
            {
                "config_name": "default",
                "data_files": [{"split": name, "path": f"data/{name}-*"} for name in plan.splits],
            }
        ],
        "dataset_info": {
            "features": [{"name": name} | _in_yaml(feature) for name, feature in features.items()],
            "splits": [
                {"name": name, "num_bytes": plan.n_bytes[name], "num_examples": count}
                for name, count in plan.counts().items()
            ],
        },
    }
    text = yaml.safe_dump(header, sort_keys=False, allow_unicode=True, width=120)
    counts = "".join(f"| {name} | {count:,} |\n" for name, count in plan.counts().items())
    return (
        f"---\n{text}---\n\n# Pictures exported by raypipe\n\n| split | pictures |\n|---|---|\n{counts}\n"
        '```python\nimport datasets\n\ndatasets.load_dataset("PATH OF THIS FOLDER")\n```\n'
    ).encode()


def _in_yaml(feature: Any) -> dict[str, Any]:
    """A feature in the form of dataset cards, which is shorter than the JSON in the schema."""
    if isinstance(feature, list):
        (inner,) = feature
        if "_type" not in inner:
            return {"list": [{"name": name} | _in_yaml(part) for name, part in inner.items()]}
        return {"list": inner["dtype"]}
    if feature["_type"] == "ClassLabel":
        return {"dtype": {"class_label": {"names": {str(i): name for i, name in enumerate(feature["names"])}}}}
    return {"dtype": "image" if feature["_type"] == "Image" else feature["dtype"]}
