"""deploy/kubernetes: valid by the schemas of Kubernetes, and in accord with itself and with the project."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from project import settings, web
from project.cli import app as command_line
from project.tests.deploy.image import Dockerfile
from project.tests.service import ROOT

FOLDER = ROOT / "deploy/kubernetes"
OLDEST = "1.30"  # the first whose preStop may sleep without a shell
SECRET_KEYS = {"database-password", "redis-password", "payments-token", "api-keys"}

kustomization = yaml.safe_load((FOLDER / "kustomization.yaml").read_text())
resources = [
    resource for name in kustomization["resources"] for resource in yaml.safe_load_all((FOLDER / name).read_text())
]


def of_kind(*kinds: str) -> list[dict[str, Any]]:
    return [resource for resource in resources if resource["kind"] in kinds]


def name(resource: Mapping[str, Any]) -> str:
    return str(resource["metadata"]["name"])


workloads = of_kind("Deployment", "Job")
every_workload = pytest.mark.parametrize("workload", workloads, ids=name)
every_deployment = pytest.mark.parametrize("workload", of_kind("Deployment"), ids=name)


def pod(workload: Mapping[str, Any]) -> dict[str, Any]:
    spec: dict[str, Any] = workload["spec"]["template"]["spec"]
    return spec


def container(workload: Mapping[str, Any]) -> dict[str, Any]:
    """Its only one."""
    (only,) = pod(workload)["containers"]
    return dict(only)


def labels(workload: Mapping[str, Any]) -> dict[str, str]:
    found: dict[str, str] = workload["spec"]["template"]["metadata"]["labels"]
    return found


def environment(workload: Mapping[str, Any]) -> dict[str, str]:
    told: dict[str, str] = {}
    for source in container(workload).get("envFrom", []):
        (config,) = [one for one in of_kind("ConfigMap") if name(one) == source["configMapRef"]["name"]]
        told |= config["data"]
    return told | {one["name"]: one["value"] for one in container(workload)["env"]}


@pytest.mark.parametrize("version", [OLDEST, "1.34", kubernetes_validate.latest_version()])
@pytest.mark.parametrize("resource", resources, ids=lambda one: f"{one['kind']}-{name(one)}")
def test_each_resource_is_valid_by_its_schema(resource: dict[str, Any], version: str) -> None:
    kubernetes_validate.validate(resource, version, strict=True)


def test_a_wrong_resource_is_not() -> None:
    wrong = {**of_kind("Service")[0], "spec": {"port": 80}}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, OLDEST, strict=True)


def test_the_kustomization_names_all_files_and_leaves_the_image_to_an_overlay() -> None:
    others = {"kustomization.yaml", "prometheus-adapter.yaml"}
    assert set(kustomization["resources"]) == {file.name for file in FOLDER.iterdir()} - others
    assert [name(one) for one in of_kind("Namespace")] == [kustomization["namespace"]]
    version = Dockerfile.read().rest("ARG")[0].removeprefix("VERSION=")
    assert {container(workload)["image"] for workload in workloads} == {f"claim_process:{version}"}
    assert "images" not in kustomization  # a name that was replaced here could not be replaced there


@every_workload
def test_a_pod_keeps_to_the_restricted_standard_and_has_no_token(workload: dict[str, Any]) -> None:
    spec, only = pod(workload), container(workload)
    security = spec["securityContext"]
    assert security["runAsNonRoot"] is True
    assert security["seccompProfile"] == {"type": "RuntimeDefault"}
    assert f"{security['runAsUser']}:{security['runAsGroup']}" == Dockerfile.read().rest("USER")[0]
    assert only["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert spec["automountServiceAccountToken"] is False
    assert spec["serviceAccountName"] in {name(one) for one in of_kind("ServiceAccount")}
    assert {"cpu", "memory"} == set(only["resources"]["requests"])
    assert "memory" in only["resources"]["limits"]


@every_workload
def test_it_runs_a_command_of_ours_with_settings_of_ours(
    workload: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    (command,) = container(workload)["args"]
    assert command in {one.name or getattr(one.callback, "__name__", "") for one in command_line.registered_commands}
    known = {field for group in vars(settings.load()).values() for field in type(group).model_fields}
    for variable, value in environment(workload).items():
        assert variable.lower().removesuffix("_file") in known, variable
        if variable.endswith("_FILE"):
            (tmp_path / variable).write_text("x")
        monkeypatch.setenv(variable, str(tmp_path / variable) if variable.endswith("_FILE") else value)
    chosen = settings.load()
    assert not chosen.server.is_loopback
    ports = {port["name"]: port["containerPort"] for port in container(workload).get("ports", [])}
    listens = {"web": {"http": chosen.server.port}, "worker": {"metrics": chosen.metrics_port}, "migrate": {}}
    assert ports == listens[command]


@every_workload
def test_each_file_that_it_is_told_of_is_mounted_from_the_secret(workload: dict[str, Any]) -> None:
    volumes = {volume["name"]: volume for volume in pod(workload)["volumes"]}
    mounts = {mount["name"]: mount["mountPath"] for mount in container(workload)["volumeMounts"]}
    assert set(mounts) == set(volumes)
    secret = volumes["secrets"]["secret"]
    assert secret["secretName"] in (ROOT / "docs/deploy.md").read_text()
    assert {item["key"] for item in secret["items"]} <= SECRET_KEYS
    there = {f"{mounts['secrets']}/{item['path']}" for item in secret["items"]}
    told = environment(workload)
    assert {value for variable, value in told.items() if variable.endswith("_FILE")} == there
    assert mounts["tmp"] == told["DATA_DIR"]
    assert volumes["tmp"]["emptyDir"]["medium"] == "Memory"


def test_the_documents_say_how_each_key_of_the_secret_is_made() -> None:
    text = (ROOT / "docs/deploy.md").read_text()
    for key in SECRET_KEYS:
        assert f"--from-file={key}=secrets/" in text, key


@every_deployment
def test_probes_ask_what_is_served_on_a_port_that_is_there(workload: dict[str, Any]) -> None:
    only = container(workload)
    ports = {port["name"] for port in only["ports"]}
    served = {"web": {"/livez", "/readyz"}, "worker": {"/livez"}}[only["args"][0]]
    asked = [only[probe]["httpGet"] for probe in ("startupProbe", "livenessProbe", "readinessProbe")]
    assert {ask["port"] for ask in asked} <= ports
    assert {ask["path"] for ask in asked} == served
    assert only["livenessProbe"]["httpGet"]["path"] == "/livez"  # a database that is away is no reason to be killed


def test_a_stop_gives_requests_in_hand_the_time_that_web_gives_them() -> None:
    (workload,) = [one for one in of_kind("Deployment") if name(one) == "claim-process-web"]
    pause = container(workload)["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert pod(workload)["terminationGracePeriodSeconds"] > pause + web.GRACE_S


def selectors() -> Iterator[tuple[str, dict[str, str]]]:
    """Every selector of pods, with the kind of what has it."""
    for service in of_kind("Service"):
        yield name(service), service["spec"]["selector"]
    for one in of_kind("PodDisruptionBudget", "Deployment"):
        yield name(one), one["spec"]["selector"]["matchLabels"]
    for policy in of_kind("NetworkPolicy"):
        yield name(policy), policy["spec"]["podSelector"]["matchLabels"]
    for workload in of_kind("Deployment"):
        (spread,) = pod(workload)["topologySpreadConstraints"]
        yield name(workload), spread["labelSelector"]["matchLabels"]


def test_each_selector_finds_the_workload_of_its_name_and_no_other() -> None:
    found = list(selectors())
    assert len(found) == 11
    for named, selector in found:
        assert [name(one) for one in workloads if selector.items() <= labels(one).items()] == [named]


def test_each_port_that_is_named_is_one_of_the_pods() -> None:
    for service in of_kind("Service"):
        (workload,) = [one for one in workloads if name(one) == name(service)]
        ports = {port["name"] for port in container(workload)["ports"]}
        assert {port["targetPort"] for port in service["spec"]["ports"]} == ports
        (policy,) = [one for one in of_kind("NetworkPolicy") if name(one) == name(service)]
        assert {port["port"] for rule in policy["spec"]["ingress"] for port in rule["ports"]} == ports
    assert {name(policy) for policy in of_kind("NetworkPolicy")} == {name(one) for one in workloads}


def test_workers_are_scaled_by_the_age_of_the_oldest_unpaid_claim() -> None:
    scalers = {name(one): one["spec"] for one in of_kind("HorizontalPodAutoscaler")}
    assert {one["scaleTargetRef"]["name"] for one in scalers.values()} == {name(one) for one in of_kind("Deployment")}
    assert not any("replicas" in one["spec"] for one in of_kind("Deployment"))
    assert all(one["minReplicas"] >= 2 for one in scalers.values())
    (metric,) = scalers["claim-process-worker"]["metrics"]
    assert metric["external"]["target"]["type"] == "Value"
    (rule,) = yaml.safe_load((FOLDER / "prometheus-adapter.yaml").read_text())["rules"]["external"]
    assert metric["external"]["metric"]["name"] == rule["name"]["as"]
    source = "".join(file.read_text() for file in (ROOT / "project").glob("*.py"))
    source += "".join(file.read_text() for file in (ROOT / "project/telemetry").glob("*.py"))
    for series in (rule["seriesQuery"], *re.findall(r"\b[a-z]+_[a-z_]+\b", rule["metricsQuery"])):
        assert f'"{series}"' in source


def test_the_connections_that_all_of_them_may_have_are_told() -> None:
    most = {name(one): one["spec"]["maxReplicas"] for one in of_kind("HorizontalPodAutoscaler")}
    web, worker = most["claim-process-web"], most["claim-process-worker"]
    told = f"{web * 12 + worker * 9}, and {(web + 1) * 12 + (worker + 1) * 9} in a rollout"
    assert f"allows, {told}." in (FOLDER / "configmap.yaml").read_text()
