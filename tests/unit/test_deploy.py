"""What lies in deploy/ names settings that there are, and URLs that the shop understands."""

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from quartet.cli import IDLE_SECONDS, LEAVING_SECONDS
from quartet.kernel.settings import Settings
from quartet.stores.cluster import is_cluster
from quartet.stores.search import nodes_of

DEPLOY = Path(__file__).parents[2] / "deploy"
FILES = sorted(DEPLOY.rglob("*.yaml"))


def _texts(node: Any) -> Iterator[str]:
    """Every key and value of a document."""
    if isinstance(node, dict):
        for key, value in node.items():
            yield str(key)
            yield from _texts(value)
    elif isinstance(node, list):
        for value in node:
            yield from _texts(value)
    else:
        yield str(node)


def test_every_setting_named_is_one() -> None:
    known = {f"QUARTET_{name.upper()}" for name in Settings.model_fields}
    for file in [*FILES, DEPLOY / "Dockerfile"]:
        assert set(re.findall(r"QUARTET_\w+", file.read_text())) <= known, file


def test_every_store_is_several_servers_and_every_server_named_is_there() -> None:
    cluster = yaml.safe_load((DEPLOY / "cluster.yaml").read_text())
    services, said = cluster["services"], cluster["x-quartet"]["environment"]
    hosts = {
        store: re.findall(r"(?<=[/,])[a-z]+(?:-\w+)*(?=[:/,])", re.sub("//.*@", "//", said[f"QUARTET_{store}_URL"]))
        for store in ("POSTGRES", "POSTGRES_REPLICA", "MONGODB", "REDIS", "SEARCH")
    }
    assert {store: len(found) for store, found in hosts.items()} == {
        "POSTGRES": 1, "POSTGRES_REPLICA": 1, "MONGODB": 3, "REDIS": 3, "SEARCH": 3
    }  # fmt: skip
    assert {host for found in hosts.values() for host in found} <= services.keys()
    assert is_cluster(said["QUARTET_REDIS_URL"])
    assert nodes_of(said["QUARTET_SEARCH_URL"]) == [f"http://search-{n}:9200" for n in range(3)]
    assert all(services[name]["deploy"]["replicas"] > 1 for name in ("api", "worker"))
    assert {name for service in services.values() for name in service.get("depends_on", [])} <= services.keys()


def test_nothing_is_read_of_mongodb_that_it_may_lose() -> None:
    """Of a write that is rolled back no change stream tells: search and cache would keep it."""
    told = [text for file in (*FILES, DEPLOY.parent / "docs/engines.md") for text in
            re.findall(r"mongodb://[^\s`']+", file.read_text()) if "," in text]  # fmt: skip
    assert len(told) == 3
    for url in told:
        assert {"w=majority", "readConcernLevel=majority"} <= set(url.partition("?")[2].split("&"))


def test_the_manifests_belong_together() -> None:
    documents = [each for file in FILES if file.parent.name == "kubernetes" for each in yaml.safe_load_all(file.open())]
    labels = {d["metadata"]["name"]: d for d in documents if d["kind"] in ("StatefulSet", "Deployment")}
    assert labels.keys() == {
        "quartet-api", "quartet-worker", "postgres", "postgres-replica", "mongodb", "redis", "search"
    }  # fmt: skip
    for document in documents:
        assert document["metadata"]["namespace"] == "quartet"
        if document["kind"] in ("Service", "PodDisruptionBudget"):
            selector = document["spec"]["selector"]
            app = selector.get("app") or selector["matchLabels"]["app"]
            assert app in labels
    stateful = {name: d["spec"]["replicas"] for name, d in labels.items()}
    assert (stateful["mongodb"], stateful["redis"], stateful["search"]) == (3, 6, 3)
    assert "quartet" in set(_texts(documents))


def _pods() -> Iterator[tuple[str, dict[str, Any]]]:
    """Every pod of the manifests, with the name of what makes it."""
    for file in FILES:
        if file.parent.name == "kubernetes":
            for document in yaml.safe_load_all(file.open()):
                if "template" in document.get("spec", {}):
                    yield document["metadata"]["name"], document["spec"]["template"]["spec"]


def test_kubernetes_gives_the_shop_no_setting_of_its_own() -> None:
    shops = [pod for name, pod in _pods() if name.startswith("quartet-")]
    assert len(shops) == 2
    for pod in shops:  # a Service `quartet` means QUARTET_PORT=tcp://… in every pod that does not refuse it
        assert pod["enableServiceLinks"] is False


def test_a_store_that_is_away_takes_no_process_out_of_the_balancer() -> None:
    probes = [
        container[probe]["httpGet"]["path"]
        for name, pod in _pods()
        for container in pod["containers"]
        for probe in ("livenessProbe", "readinessProbe")
        if name == "quartet-api"
    ]
    assert probes == ["/health/live", "/health/live"]
    balanced = yaml.safe_load((DEPLOY / "cluster.yaml").read_text())["services"]["api"]["healthcheck"]["test"]
    assert "/health/live" in balanced[-1]


def test_nobody_is_sent_to_an_api_that_lets_nobody_in_any_more() -> None:
    [(pod, api)] = [(pod, each) for _, pod in _pods() for each in pod["containers"] if each["name"] == "api"]
    _, seconds = api["lifecycle"]["preStop"]["exec"]["command"]
    kept = pod.get("terminationGracePeriodSeconds", 30)
    assert 5 <= int(seconds) <= kept - LEAVING_SECONDS - 10  # the rest is for what has to be closed


def test_an_address_that_somebody_tells_is_believed_only_behind_the_balancer() -> None:
    believing = [file.name for file in [*FILES, DEPLOY / "Dockerfile"] if "QUARTET_TRUST_PROXY" in file.read_text()]
    assert believing == ["cluster.yaml"]
    assert "X-Forwarded-For $remote_addr;" in (DEPLOY / "nginx.conf").read_text()


def test_nobody_deploys_the_shop_without_saying_by_whom_it_is_paid() -> None:
    said = yaml.safe_load((DEPLOY / "cluster.yaml").read_text())["x-quartet"]["environment"]
    assert said["QUARTET_PAYMENT_PROVIDERS"].startswith("${QUARTET_PAYMENT_PROVIDERS:?")
    shops = [container for name, pod in _pods() if name.startswith("quartet-") for container in pod["containers"]]
    assert len(shops) == 2
    for container in shops:
        [given] = [each["valueFrom"]["secretKeyRef"] for each in container["env"]]
        assert given == {"name": "quartet", "key": "QUARTET_PAYMENT_PROVIDERS"}, "it does not start without"


def _redis_servers() -> Iterator[tuple[list[str], str]]:
    """How every Redis of deploy/ is started, with the memory of its container where that is bounded."""
    for name in ("compose.yaml", "cluster.yaml"):
        for service in yaml.safe_load((DEPLOY / name).read_text())["services"].values():
            if service.get("command", [""])[0] == "valkey-server":
                yield service["command"], ""
    for name, pod in _pods():
        if name == "redis":
            [container] = pod["containers"]
            yield container["args"], container["resources"]["limits"]["memory"]


def test_no_redis_deletes_a_cart_to_make_room() -> None:
    servers = list(_redis_servers())
    assert len(servers) == 1 + 6 + 1
    for said, limit in servers:
        assert "--maxmemory-policy noeviction" in said
        [most] = re.findall(r"--maxmemory (\d+)mb", "\n".join(said))
        assert not limit or int(most) <= 0.65 * 1024 * int(limit.removesuffix("Gi"))


def test_the_owners_url_is_told_to_the_migration_alone() -> None:
    told = {
        container["name"]: [each["secretRef"]["name"] for each in container["envFrom"]]
        for name, pod in _pods()
        if name.startswith("quartet-")
        for container in (*pod.get("initContainers", ()), *pod["containers"])
    }
    assert told == {"migrate": ["quartet", "quartet-owner"], "api": ["quartet"], "worker": ["quartet"]}


def test_the_balancer_lets_go_of_a_connection_before_the_api_does() -> None:
    [upstream] = re.findall(r"upstream api \{.+?\}", (DEPLOY / "nginx.conf").read_text(), re.DOTALL)
    [kept] = re.findall(r"^ *keepalive_timeout (\d+)s;$", upstream, re.MULTILINE)
    assert int(kept) + 5 <= IDLE_SECONDS


def test_what_keeps_data_may_write_where_it_keeps_it() -> None:
    runs_as = {
        "search": 1000,
        "postgres-replica": 999,
    }  # the others' images give the folder away and step down themselves
    for name, pod in _pods():
        if name in runs_as:
            assert pod["securityContext"]["fsGroup"] == runs_as[name]
        for container in pod["containers"]:
            if container.get("volumeMounts") and name not in runs_as:
                assert "command" not in container, f"{name}: in place of the image's own start"


def test_the_replica_closes_its_folder_that_the_kubelet_opened(tmp_path: Path) -> None:
    """Its own words, with a PostgreSQL that only tells whether it would start."""
    pod = dict(_pods())["postgres-replica"]
    data, programs = tmp_path / "data", tmp_path / "programs"
    (data / "global").mkdir(parents=True)
    (data / "global" / "pg_control").write_text("copied before")
    data.chmod(0o2770)
    programs.mkdir()
    (programs / "postgres").write_text('#!/bin/sh\nstat -c %a "$PGDATA"\n')
    (programs / "postgres").chmod(0o755)
    [container] = pod["containers"]
    said = subprocess.run(
        [*container["command"], *container["args"]],
        env={"PATH": f"{programs}:{os.environ['PATH']}", "PGDATA": str(data)},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert said.stdout.strip() in ("700", "2700")


def test_the_image_takes_in_only_what_it_is_made_of() -> None:
    ignore = (DEPLOY.parent / ".dockerignore").read_text().splitlines()
    assert "*" in ignore
    taken = {line[1:] for line in ignore if line.startswith("!")}
    copied = re.findall(r"^COPY (.+) \S+$", (DEPLOY / "Dockerfile").read_text(), re.MULTILINE)
    assert taken == {name for line in copied for name in line.split()}
