"""As much of kustomize as our overlays use: resources, a namespace, images, JSON patches. So the manifests are checked
on machines without kubectl; where kubectl is there, a test compares the two."""

from copy import deepcopy
from pathlib import Path

import yaml

CLUSTER_WIDE = ("Namespace",)


def render(folder: Path) -> list[dict]:
    """The objects that `kubectl kustomize folder` prints, in some order."""
    plan = yaml.safe_load((folder / "kustomization.yaml").read_text())
    known = {"apiVersion", "kind", "resources", "namespace", "images", "patches"}
    assert set(plan) <= known, f"{folder}: this renderer does not know {set(plan) - known}"
    found = []
    for name in plan["resources"]:
        path = folder / name
        found += render(path) if path.is_dir() else [one for one in yaml.safe_load_all(path.read_text()) if one]
    for patch in plan.get("patches", []):
        (target,) = [one for one in found if matches(one, patch["target"])]
        found[found.index(target)] = patched(target, yaml.safe_load((folder / patch["path"]).read_text()))
    for one in found:
        if "namespace" in plan and one["kind"] not in CLUSTER_WIDE:
            one["metadata"]["namespace"] = plan["namespace"]
        set_images(one, {image["name"]: image["newTag"] for image in plan.get("images", [])})
    return found


def matches(one: dict, target: dict) -> bool:
    return (one["kind"], one["metadata"]["name"]) == (target["kind"], target["name"])


def patched(document: dict, operations: list[dict]) -> dict:
    """RFC 6902: add, replace and copy."""
    document = deepcopy(document)
    for operation in operations:
        value = operation["value"] if "value" in operation else deepcopy(resolve(document, operation["from"]))
        *parents, last = parts(operation["path"])
        place = resolve(document, "/" + "/".join(parents))
        if isinstance(place, list):
            if operation["op"] == "replace":
                place[int(last)] = value
            else:
                place.insert(int(last), value)
        else:
            assert operation["op"] != "replace" or last in place, f"{operation['path']} is not there to be replaced"
            place[last] = value
    return document


def parts(pointer: str) -> list[str]:
    return [part.replace("~1", "/").replace("~0", "~") for part in pointer.strip("/").split("/")]


def resolve(document, pointer: str):
    for part in parts(pointer):
        document = document[int(part) if isinstance(document, list) else part]
    return document


def set_images(value, tags: dict[str, str]) -> None:
    if isinstance(value, list):
        for one in value:
            set_images(one, tags)
    elif isinstance(value, dict):
        for container in value.get("containers") or []:
            if container.get("image") in tags:
                container["image"] += ":" + tags[container["image"]]
        for one in value.values():
            set_images(one, tags)
