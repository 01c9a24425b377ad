"""The Kubernetes manifests: every object of every overlay against published schemas, and what we promise of them."""

import json
import os
import re
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

import jsonschema
import pytest
import yaml

from cluster.kubernetes_secrets import NAMES, secret_list
from cluster.state import SERVE_OVER_GRPC
from mtp.config import load_config
from mtp.errors import UsageError
from mtp.threads import SPIN
from tests.cluster.kustomize import render

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "cluster" / "kubernetes"
OVERLAYS = sorted(path.parent for path in FOLDER.glob("overlays/*/kustomization.yaml"))
CRDS = Path(os.environ.get("MTP_KUBERAY_CRDS", ROOT.parent / "shared" / "crds"))


@cache
def rendered(overlay: Path) -> list[dict]:
    return render(overlay)


OBJECTS = [
    pytest.param(one, id=f"{overlay.name}-{one['kind']}-{one['metadata']['name']}")
    for overlay in OVERLAYS
    for one in rendered(overlay)
]


def of_kind(overlay: Path, kind: str) -> list[dict]:
    return [one for one in rendered(overlay) if one["kind"] == kind]


@cache
def crd(kind: str) -> dict:
    """KubeRay's schema of a kind, for jsonschema: fields with defaults are not required, maps may be null."""
    path = CRDS / f"ray.io_{kind.lower()}s.yaml"
    if not path.is_file():
        pytest.skip(f"{path} is not here; set MTP_KUBERAY_CRDS to a folder with KubeRay's custom resource definitions")
    definition = yaml.load(path.read_text(), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    (version,) = [one for one in definition["spec"]["versions"] if one["name"] == "v1"]
    return strict(version["schema"]["openAPIV3Schema"])


def strict(schema: dict) -> dict:
    """Refuses unknown fields, as the API server does with `kubectl --validate=strict`."""
    schema = dict(schema)
    if "properties" in schema:
        schema["properties"] = {name: strict(one) for name, one in schema["properties"].items()}
        free = schema.get("x-kubernetes-preserve-unknown-fields") or schema["properties"].get("metadata") == {}
        schema.setdefault("additionalProperties", bool(free))
        defaulted = {name for name, one in schema["properties"].items() if "default" in one}
        if "required" in schema:
            schema["required"] = [name for name in schema["required"] if name not in defaulted]
    for key in ("items", "additionalProperties"):
        if isinstance(schema.get(key), dict):
            schema[key] = strict(schema[key])
    if schema.get("type") == "object" and list(schema) == ["type"]:
        schema["additionalProperties"] = True  # metadata, which the API server knows by itself
    if schema.pop("x-kubernetes-int-or-string", False):
        schema.pop("type", None)
    return schema


@pytest.mark.parametrize("one", [param for param in OBJECTS if param.values[0]["apiVersion"].startswith("ray.io/")])
def test_ray_objects_fit_kuberays_schemas(one):
    validator = jsonschema.Draft7Validator(crd(one["kind"]))
    assert [f"{error.json_path}: {error.message[:200]}" for error in validator.iter_errors(one)] == []


def test_the_schema_check_sees_a_misspelt_field_and_a_wrong_type():
    (one,) = of_kind(OVERLAYS[0], "RayCluster")
    validator = jsonschema.Draft7Validator(crd("RayCluster"))
    wrong = json.loads(json.dumps(one))
    wrong["spec"]["workerGroupSpecs"][0]["maxReplica"] = 3
    wrong["spec"]["headGroupSpec"]["template"]["spec"]["containers"][0]["ports"][0]["containerPort"] = "x"
    assert len(list(validator.iter_errors(wrong))) == 2


@pytest.mark.parametrize("one", [param for param in OBJECTS if not param.values[0]["apiVersion"].startswith("ray.io/")])
def test_other_objects_fit_kubernetes_schemas(one):
    kubernetes_validate = pytest.importorskip("kubernetes_validate")
    kubernetes_validate.validate(one, "1.33", strict=True)


@pytest.mark.parametrize("overlay", OVERLAYS, ids=lambda path: path.name)
def test_kubectl_renders_the_same_objects(overlay):
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl is not installed")
    done = subprocess.run(["kubectl", "kustomize", str(overlay)], capture_output=True, text=True, check=True)

    def by_name(objects):
        return {(one["kind"], one["metadata"]["name"]): one for one in objects}

    assert by_name(yaml.safe_load_all(done.stdout)) == by_name(rendered(overlay))


# ---- what KubeRay's operator checks in Go only (ray-operator/controllers/ray/utils/validation.go, 1.7)


def ray_clusters(overlay: Path) -> list[dict]:
    """The specs of all Ray clusters."""
    own = [one["spec"] for one in of_kind(overlay, "RayCluster")]
    return own + [one["spec"]["rayClusterConfig"] for one in of_kind(overlay, "RayService")]


@pytest.mark.parametrize("overlay", OVERLAYS, ids=lambda path: path.name)
def test_ray_clusters_keep_the_operators_own_rules(overlay):
    for spec in ray_clusters(overlay):
        groups = [spec["headGroupSpec"], *spec["workerGroupSpecs"]]
        assert spec["authOptions"]["mode"] == "token"
        assert tuple(int(part) for part in spec["rayVersion"].split(".")) >= (2, 52, 0)
        assert spec["enableInTreeAutoscaling"] and spec["autoscalerOptions"]["version"] == "v2"
        for group in groups:
            pod = group["template"]["spec"]
            assert pod["restartPolicy"] == "Never", "autoscaler v2 replaces pods, it does not restart them"
            names = {variable["name"] for variable in pod["containers"][0]["env"]}
            assert not names & {"RAY_enable_autoscaler_v2", "RAY_REDIS_ADDRESS", "REDIS_PASSWORD", "REDIS_USERNAME"}
            parameters = group["rayStartParams"]
            assert not {"redis-password", "redis-username", "labels"} & set(parameters)
            assert not (group.get("resources") and {"num-cpus", "num-gpus", "memory", "resources"} & set(parameters))
        for group in spec["workerGroupSpecs"]:
            assert 0 <= group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
        assert len({group["groupName"] for group in spec["workerGroupSpecs"]}) == len(spec["workerGroupSpecs"])


@pytest.mark.parametrize("overlay", OVERLAYS, ids=lambda path: path.name)
def test_jobs_and_services_keep_the_operators_own_rules(overlay):
    clusters = {one["metadata"]["name"] for one in of_kind(overlay, "RayCluster")}
    for job in of_kind(overlay, "RayJob"):
        spec = job["spec"]
        assert spec["submissionMode"] in ("K8sJobMode", "HTTPMode", "InteractiveMode"), (
            "SidecarMode needs its own cluster"
        )
        assert spec["clusterSelector"]["ray.io/cluster"] in clusters
        assert not spec.get("suspend") and not spec.get("ttlSecondsAfterFinished")
        assert spec["backoffLimit"] >= 0
    for service in of_kind(overlay, "RayService"):
        strategy = service["spec"]["upgradeStrategy"]
        assert strategy["type"] in ("NewCluster", "NewClusterWithIncrementalUpgrade", "None")
        if strategy["type"] == "NewClusterWithIncrementalUpgrade":
            assert strategy["clusterUpgradeOptions"]["gatewayClassName"]
        assert "name" not in service["spec"]["rayClusterConfig"]["headGroupSpec"].get("headService", {})
    for one in rendered(overlay):
        if one["apiVersion"].startswith("ray.io/"):
            assert re.fullmatch(r"[a-z]([-a-z0-9]{0,45}[a-z0-9])?", one["metadata"]["name"])


# ---- what the manifests promise


def pods(overlay: Path) -> list[tuple[str, dict]]:
    """Every pod template, with the name of where it stands."""

    def walk(value, where):
        if isinstance(value, list):
            return [pod for one in value for pod in walk(one, where)]
        if not isinstance(value, dict):
            return []
        found = [(where, value)] if "containers" in value else []
        return found + [pod for one in value.values() for pod in walk(one, where)]

    return [pod for one in rendered(overlay) for pod in walk(one.get("spec", {}), one["metadata"]["name"])]


@pytest.mark.parametrize("overlay", OVERLAYS, ids=lambda path: path.name)
def test_no_pod_runs_as_root_or_writes_to_its_image(overlay):
    found = pods(overlay)
    assert len(found) >= 9
    for name, pod in found:
        assert pod["securityContext"]["runAsNonRoot"] and pod["securityContext"]["runAsUser"] > 0, name
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, name
        for container in pod["containers"]:
            context = container["securityContext"]
            assert context["readOnlyRootFilesystem"] and not context["allowPrivilegeEscalation"], name
            assert context["capabilities"] == {"drop": ["ALL"]}, name
            assert any(mount["mountPath"] in ("/tmp", "/data") for mount in container["volumeMounts"]), name


@pytest.mark.parametrize("overlay", OVERLAYS, ids=lambda path: path.name)
def test_every_server_asks_for_resources_and_is_probed(overlay):
    for name, pod in pods(overlay):
        for container in pod["containers"]:
            assert {"cpu", "memory"} <= set(container["resources"]["requests"]), name
            assert "memory" in container["resources"]["limits"], name
            if container["name"] not in ("mc", "submitter"):
                assert {"readinessProbe", "livenessProbe"} <= set(container), name
            assert not container["image"].endswith(":latest") and ":" in container["image"], f"{name} pins no version"


@pytest.mark.parametrize("overlay", OVERLAYS, ids=lambda path: path.name)
def test_secrets_stand_in_no_manifest_and_those_referred_to_are_made(overlay, tmp_path):
    text = yaml.safe_dump_all(rendered(overlay))
    assert not of_kind(overlay, "Secret")
    for line in text.splitlines():
        key, _, value = line.strip(" -").partition(": ")
        if re.search(r"(?i)password|token|secret", key) and value:
            assert key in ("secretName", "automountServiceAccountToken") or value in ("token", "password"), line
    keys = tmp_path / "api_keys.json"
    keys.write_text('{"keys": []}')
    made = {one["metadata"]["name"]: set(one["stringData"]) for one in secret_list(keys)["items"]}
    assert set(made) == set(NAMES)
    referred = re.findall(r"secretKeyRef:\s+key: (\S+)\s+name: (\S+)", text)
    assert len(referred) > 8
    for key, name in referred:
        assert key in made[name], f"{name} has no {key}"
    assert set(re.findall(r"secretName: (\S+)", text)) <= set(made)


def test_making_secrets_needs_an_api_key_and_never_repeats_one(tmp_path):
    with pytest.raises(UsageError, match="make a first API key with `mtp keys add NAME`"):
        secret_list(tmp_path / "api_keys.json")
    (tmp_path / "api_keys.json").write_text("{}")
    first, second = (yaml.safe_dump(secret_list(tmp_path / "api_keys.json")) for _ in range(2))
    drawn = re.findall(r"\b[0-9a-f]{48,64}\b", first)
    assert len(set(drawn)) == 6 and not set(drawn) & set(re.findall(r"\b[0-9a-f]{48,64}\b", second))


def test_the_secrets_are_printed_for_a_pipe(tmp_path):
    (tmp_path / "api_keys.json").write_text("{}")
    command = [sys.executable, "-m", "cluster.kubernetes_secrets"]
    done = subprocess.run(command, env={**os.environ, "MTP_HOME": str(tmp_path)}, capture_output=True, text=True)
    assert done.returncode == 0 and len(yaml.safe_load(done.stdout)["items"]) == len(NAMES)


@pytest.mark.parametrize("overlay", OVERLAYS, ids=lambda path: path.name)
def test_traffic_is_denied_but_for_named_ways_and_selectors_select(overlay):
    policies = {one["metadata"]["name"]: one["spec"] for one in of_kind(overlay, "NetworkPolicy")}
    assert policies["deny-all"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    labels = []
    for one in rendered(overlay):
        text = json.dumps(one)
        labels += [
            json.loads(found) for found in re.findall(r'"labels": (\{[^{}]*app\.kubernetes\.io/name[^{}]*\})', text)
        ]
    selectors = [spec["podSelector"]["matchLabels"] for spec in policies.values() if spec["podSelector"]]
    selectors += [one["spec"]["selector"]["matchLabels"] for one in of_kind(overlay, "PodDisruptionBudget")]
    selectors += [one["spec"]["selector"] for one in of_kind(overlay, "Service")]
    assert len(selectors) > 12
    for selector in selectors:
        assert any(selector.items() <= one.items() for one in labels), f"nothing has the labels {selector}"
    guarded = [spec["podSelector"].get("matchLabels", {}) for spec in policies.values()]
    for name, pod in pods(overlay):
        assert pod, name
    for one in labels:
        assert any(selector and selector.items() <= one.items() for selector in guarded), f"no policy lets {one} talk"


@pytest.mark.parametrize("overlay", OVERLAYS, ids=lambda path: path.name)
def test_the_mounted_configuration_is_valid_for_the_command_that_reads_it(overlay, tmp_path):
    (config,) = [one for one in of_kind(overlay, "ConfigMap") if one["metadata"]["name"] == "mtp-config"]
    (tmp_path / "config.yaml").write_text(config["data"]["config.yaml"])
    (job,) = of_kind(overlay, "RayJob")
    python, dash_m, module, option, path, *overrides = job["spec"]["entrypoint"].split()
    assert (python, dash_m, module, option) == ("python", "-m", "jobs.train", "--config")
    assert path == "/etc/mtp/config/config.yaml"
    settings = load_config(tmp_path / "config.yaml", overrides)
    assert settings.tracking.uri == "http://mlflow:5000"


# ---- the endpoint's declaration


@pytest.mark.parametrize("overlay", OVERLAYS, ids=lambda path: path.name)
def test_the_serve_config_fits_rays_schema_and_our_builders(overlay):
    from ray.serve.schema import ServeDeploySchema

    from serve.declared import DEPLOYMENTS, EndpointArguments, VersionArguments

    (service,) = of_kind(overlay, "RayService")
    config = ServeDeploySchema.model_validate(yaml.safe_load(service["spec"]["serveConfigV2"]))
    version, endpoint = config.applications
    assert (version.import_path, endpoint.import_path) == ("serve.declared:version", "serve.declared:endpoint")
    VersionArguments.model_validate(version.args)
    arguments = EndpointArguments.model_validate(endpoint.args)
    assert [route.app for route in arguments.routes] == [version.name]
    assert endpoint.route_prefix == "/" and version.route_prefix is None
    for application in config.applications:
        for deployment in application.deployments:
            assert deployment.name in DEPLOYMENTS[application.import_path], "Ray would ignore or refuse it at the start"
            scaling = deployment.autoscaling_config
            if isinstance(scaling, dict):
                assert scaling["min_replicas"] <= scaling["max_replicas"]
    raw = yaml.safe_load(service["spec"]["serveConfigV2"])
    known = set(type(endpoint.deployments[0]).model_fields)
    for application in raw["applications"]:
        for deployment in application["deployments"]:
            assert set(deployment) <= known, f"Ray overlooks misspelt options: {set(deployment) - known}"


@pytest.mark.parametrize("overlay", OVERLAYS, ids=lambda path: path.name)
def test_the_replicas_fit_the_workers_that_may_be_started(overlay):
    (service,) = of_kind(overlay, "RayService")
    (group,) = service["spec"]["rayClusterConfig"]["workerGroupSpecs"]
    requests = group["template"]["spec"]["containers"][0]["resources"]["requests"]
    needed = {"num_cpus": 0.0, "num_gpus": 0.0}
    for application in yaml.safe_load(service["spec"]["serveConfigV2"])["applications"]:
        for deployment in application["deployments"]:
            scaling = deployment.get("autoscaling_config") or {}
            number = scaling.get("max_replicas", deployment.get("num_replicas"))
            for kind in needed:
                needed[kind] += number * deployment["ray_actor_options"].get(kind, 0)
    assert needed["num_cpus"] <= group["maxReplicas"] * float(requests["cpu"])
    assert needed["num_gpus"] <= group["maxReplicas"] * float(requests.get("nvidia.com/gpu", 0))


@pytest.mark.parametrize("name", ["raycluster", "rayservice"])
def test_threads_wait_in_pods_as_they_do_everywhere(name):
    containers = re.findall(r"name: GOMP_SPINCOUNT, value: \"(\d+)\"", (FOLDER / "base" / f"{name}.yaml").read_text())
    assert containers == [SPIN["GOMP_SPINCOUNT"]] * 2  # head and workers


@pytest.mark.parametrize("overlay", OVERLAYS, ids=lambda path: path.name)
def test_ray_serve_talks_over_grpc_in_pods_as_it_does_everywhere(overlay):
    (service,) = of_kind(overlay, "RayService")
    cluster = service["spec"]["rayClusterConfig"]
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        (container,) = group["template"]["spec"]["containers"]
        assert SERVE_OVER_GRPC.items() <= {one["name"]: one.get("value") for one in container["env"]}.items()
