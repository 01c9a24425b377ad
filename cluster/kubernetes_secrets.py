"""Fresh secrets for the manifests: `python -m cluster.kubernetes_secrets | kubectl apply -n mtp -f -`.

Everything is drawn here and printed as one list of Kubernetes secrets, so that nothing secret stands on a command line
or in a file. For the first installation: a database keeps the password it was made with, and docs/security.md says how
each secret is changed later. API keys are not made here but given: the file of `mtp keys add`.
"""

import sys
from pathlib import Path
from secrets import token_hex
from typing import Any

import yaml

from mtp.config import home
from mtp.errors import UsageError

NAMES = ("mtp-ray-token", "mtp-redis", "mtp-postgres", "mtp-minio", "mtp-mlflow", "mtp-api-keys")


def secret_list(api_keys: Path) -> dict[str, Any]:
    """The list as Kubernetes reads it; all values are drawn anew but the API keys, which are in the file `api_keys`.

    Raises:
        UsageError: there is no such file.
    """
    if not api_keys.is_file():
        raise UsageError(f"{api_keys} does not exist; make a first API key with `mtp keys add NAME`")
    redis, postgres, minio, admin = (token_hex(24) for _ in range(4))
    # The driver by name: SQLAlchemy's own choice for a bare postgresql:// changed with 2.1.
    database = f"postgresql+psycopg2://mlflow:{postgres}@postgres:5432"
    auth = {
        "default_permission": "READ",
        "database_uri": f"{database}/mlflow_users",
        "admin_username": "admin",
        "admin_password": admin,
        "authorization_function": "mlflow.server.auth:authenticate_request_basic_auth",
    }
    contents = {
        "mtp-ray-token": {"auth_token": token_hex(32)},
        "mtp-redis": {"password": redis, "redis.conf": f"dir /data\nappendonly yes\nrequirepass {redis}\n"},
        "mtp-postgres": {"password": postgres},
        "mtp-minio": {"user": "mtp", "password": minio, "url": f"http://mtp:{minio}@minio:9000"},
        "mtp-mlflow": {
            "username": "admin",
            "password": admin,
            "backend-store-uri": f"{database}/mlflow",
            "flask-secret-key": token_hex(32),
            "auth.ini": "[mlflow]\n" + "".join(f"{name} = {value}\n" for name, value in auth.items()),
        },
        "mtp-api-keys": {"api_keys.json": api_keys.read_text()},
    }
    return {"apiVersion": "v1", "kind": "List", "items": [_secret(name, value) for name, value in contents.items()]}


def _secret(name: str, values: dict[str, str]) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "type": "Opaque", "stringData": values}


if __name__ == "__main__":
    if sys.stdout.isatty():
        sys.exit(
            "error: this prints secrets; pipe it: python -m cluster.kubernetes_secrets | kubectl apply -n mtp -f -"
        )
    try:
        yaml.safe_dump(secret_list(home() / "api_keys.json"), sys.stdout)
    except UsageError as wrong:
        print(f"error: {wrong}", file=sys.stderr)
        sys.exit(wrong.exit_code)
