"""Makes a registered model an MLflow model for everybody: `mlflow.pyfunc.load_model(uri).predict(prompts)`.

Models-from-code: MLflow runs `mtp_model.py`, which asks the installed mtp to read the safetensors beside it. Nothing is
pickled. Written by hand rather than by MLflow, which would load and run the model to describe it. The platform itself
never runs these files: it fetches the model's own by name. Knows MLflow's format; knows nothing of models.
"""

import json
import platform
import uuid
from datetime import UTC, datetime
from pathlib import Path

CODE = "mtp_model.py"
_CODE_TEXT = '''"""What MLflow runs to load this model: the installed mtp reads the files beside this one."""

from pathlib import Path

from mtp.registry.text_model import publish

publish(Path(__file__).parent)
'''
PARAMS = {"max_tokens": 64, "temperature": 0.0}
"""Parameters of `predict`, with their defaults."""
_EXAMPLE = {"inputs": ["def main("], "params": PARAMS}
_TYPES = {int: "long", float: "double"}


def write_mlflow_files(folder: Path) -> None:
    """Write MLmodel, the code, requirements and an input example into `folder`."""
    import mlflow
    import yaml

    (folder / CODE).write_text(_CODE_TEXT, encoding="utf-8")
    (folder / "input_example.json").write_text(json.dumps(_EXAMPLE), encoding="utf-8")
    (folder / "requirements.txt").write_text(f"mlflow=={mlflow.__version__}\nmtp-platform\n", encoding="utf-8")
    (folder / "python_env.yaml").write_text(
        yaml.safe_dump({"python": platform.python_version(), "dependencies": ["-r requirements.txt"]}),
        encoding="utf-8",
    )
    (folder / "MLmodel").write_text(yaml.safe_dump(_description(mlflow.__version__)), encoding="utf-8")


def _description(version: str) -> dict[str, object]:
    text = json.dumps([{"type": "string", "required": True}])
    params = [
        {"name": name, "default": value, "shape": None, "type": _TYPES[type(value)]} for name, value in PARAMS.items()
    ]
    return {
        "flavors": {
            "python_function": {
                "loader_module": "mlflow.pyfunc.loaders.code_model",
                "model_code_path": CODE,
                "code": None,
                "env": {"virtualenv": "python_env.yaml"},
                "python_version": platform.python_version(),
                "streamable": False,
            }
        },
        "is_signature_from_type_hint": True,
        "type_hint_from_example": False,
        "mlflow_version": version,
        "model_uuid": uuid.uuid4().hex,
        "signature": {"inputs": text, "outputs": text, "params": json.dumps(params)},
        "saved_input_example_info": {
            "artifact_path": "input_example.json",
            "type": "json_object",
            "params": "true",
        },
        "utc_time_created": datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S.%f"),
    }
