#!/usr/bin/env python3
"""Render the chart with the values that people ask for, and look at what becomes of them.

usage: tests/chart/render.py HELM RENDERING...   (run by tests/chart/check; needs PyYAML)

What holds for every rendering is in `whole`: one value for a key, one entry for a name, selectors that find their Pods,
mounts that have their volume.
"""
import json
import subprocess
import sys
import tempfile

import yaml

CHART = "charts/rowlock"
BASE = {"database": {"existingSecret": "db"}, "workers": {"mail": {"queues": ["mail"]}}}
PODS = {"queues": ["big"], "launch": ["pod"]}


class Strict(yaml.SafeLoader):
    """Refuses a mapping that has a key twice: of two values one would be lost without a word."""

    def construct_mapping(self, node, deep=False):
        keys = [self.construct_object(key) for key, _ in node.value]
        twice = {key for key in keys if keys.count(key) > 1}
        if twice:
            raise AssertionError(f"keys that are there twice: {twice}, {node.start_mark}")
        return super().construct_mapping(node, deep)


def merged(base, more):
    if not (isinstance(base, dict) and isinstance(more, dict)):
        return more
    return {key: merged(base[key], more[key]) if key in base and key in more else more.get(key, base.get(key))
            for key in {**base, **more}}


def run(values):
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        json.dump(merged(BASE, values), file)
        file.flush()
        command = [HELM, "template", "rel", CHART, "-n", "ns", "--kube-version", "1.34", "--values", file.name]
        return subprocess.run(command, capture_output=True, text=True, check=False)


def render(values):
    """The objects by kind and name, each of them whole."""
    done = run(values)
    assert done.returncode == 0, done.stderr
    objects = [o for o in yaml.load_all(done.stdout, Strict) if o]
    found = {(o["kind"], o["metadata"]["name"]): o for o in objects}
    assert len(found) == len(objects), "two objects have one name"
    for o in objects:
        whole(o)
    return found


def once(what, names):
    twice = {name for name in names if names.count(name) > 1}
    assert not twice, f"{what}: there twice: {twice}"


def whole(o):
    template = {"Deployment": o, "Job": o}.get(o["kind"], {}).get("spec", {}).get("template")
    if o["kind"] == "Pod":
        template = o
    if not template:
        return
    where, spec = f"{o['kind']} {o['metadata']['name']}", template["spec"]
    containers = spec["containers"] + spec.get("initContainers", [])
    once(f"{where}, containers", [c["name"] for c in containers])
    volumes = [v["name"] for v in spec.get("volumes", [])]
    once(f"{where}, volumes", volumes)
    for c in containers:
        once(f"{where}, env of {c['name']}", [e["name"] for e in c.get("env", [])])
        mounts = c.get("volumeMounts", [])
        once(f"{where}, mounts of {c['name']}", [m["mountPath"] for m in mounts])
        assert {m["name"] for m in mounts} <= set(volumes), f"{where}: a mount of {c['name']} has no volume"
    if o["kind"] == "Deployment":
        labels = template["metadata"]["labels"]
        assert o["spec"]["selector"]["matchLabels"].items() <= labels.items(), f"{where}: the selector misses its Pods"


def refused(values, words):
    done = run(values)
    assert done.returncode != 0, "was not refused"
    assert words in done.stderr, f"wanted: {words}; got: {done.stderr}"


def deployment(objects, component):
    return objects["Deployment", f"rel-rowlock-{component}"]


def pod(objects, component):
    return deployment(objects, component)["spec"]["template"]["spec"]


def container(objects, component, name=None):
    name = name or ("controller" if component == "controller" else "worker")
    spec = pod(objects, component)
    [found] = [c for c in spec["containers"] + spec.get("initContainers", []) if c["name"] == name]
    return found


def env(c):
    return {e["name"]: e.get("value", e.get("valueFrom")) for e in c.get("env", [])}


def both(values):
    """The values for the controller and for a worker, each with the component that they are for."""
    return render({"controller": values, "workers": {"mail": values}}), ["controller", "mail"]


# ---- The cases: a function each, called like the sentence that it proves ------------------------------------------------

def containers_are_added_before_and_beside_the_charts_own():
    proxy, beside = {"name": "proxy", "image": "p", "restartPolicy": "Always"}, {"name": "beside", "image": "b"}
    objects, components = both({"initContainers": [proxy], "extraContainers": [beside]})
    for component in components:
        spec = pod(objects, component)
        assert spec["initContainers"][0] == proxy, spec["initContainers"]
        assert beside in spec["containers"] and spec["containers"][0]["name"] in ("controller", "worker")
    assert [c["name"] for c in pod(objects, "controller")["initContainers"]] == ["proxy", "migrate"]


def a_proxy_of_the_controller_is_there_for_the_migration_and_the_test_too():
    proxy = {"name": "proxy", "image": "p", "restartPolicy": "Always", "volumeMounts": [{"name": "s", "mountPath": "/s"}]}
    objects = render({"controller": {"initContainers": [proxy], "nodeSelector": {"a": "b"}, "hostAliases": [{"ip": "10.0.0.1"}],
                                     "extraVolumes": [{"name": "s", "emptyDir": {}}],
                                     "extraVolumeMounts": [{"name": "s", "mountPath": "/s"}]},
                      "migrations": {"mode": "hookJob", "serviceAccountName": "m"}, "test": {"jobType": "t"}})
    job = objects["Job", "rel-rowlock-migrate"]["spec"]["template"]["spec"]
    test = objects["Pod", "rel-rowlock-test"]["spec"]
    for spec in (job, test):
        assert spec["initContainers"][0] == proxy and spec["nodeSelector"] == {"a": "b"} and spec["hostAliases"]
        assert all(c["volumeMounts"] == [{"name": "s", "mountPath": "/s"}] for c in spec["containers"])
    assert job["serviceAccountName"] == "m" and [c["name"] for c in test["initContainers"]] == ["proxy", "doctor"]


def a_deployment_takes_its_own_settings():
    objects, components = both({"revisionHistoryLimit": 0, "minReadySeconds": 7, "progressDeadlineSeconds": 99,
                                "strategy": {"type": "Recreate"}, "labels": {"l": "1"}, "annotations": {"a": "2"}})
    for component in components:
        found = deployment(objects, component)
        spec, metadata = found["spec"], found["metadata"]
        assert (spec["revisionHistoryLimit"], spec["minReadySeconds"], spec["progressDeadlineSeconds"]) == (0, 7, 99)
        assert spec["strategy"] == {"type": "Recreate"}
        assert metadata["labels"]["l"] == "1" and metadata["annotations"]["a"] == "2"
        assert "l" not in spec["template"]["metadata"]["labels"]
    assert deployment(objects, "mail")["metadata"]["annotations"]["rowlock.dev/queues"] == "mail"
    unset = deployment(render({}), "controller")["spec"]
    assert not {"revisionHistoryLimit", "strategy", "minReadySeconds"} & unset.keys()


def a_pod_takes_its_own_settings():
    values = {"dnsConfig": {"options": [{"name": "ndots", "value": "1"}]}, "dnsPolicy": "ClusterFirst",
              "hostAliases": [{"ip": "10.0.0.1", "hostnames": ["db"]}], "runtimeClassName": "gvisor", "schedulerName": "mine",
              "priorityClassName": "high", "nodeSelector": {"pool": "jobs"}, "tolerations": [{"key": "k", "operator": "Exists"}]}
    objects, components = both({**values, "podLabels": {"tier": "jobs"}, "podAnnotations": {"note": "1"},
                                "podSecurityContext": {"fsGroup": 7}})
    for component in components:
        template = deployment(objects, component)["spec"]["template"]
        for key, value in values.items():
            assert template["spec"][key] == value, key
        assert template["metadata"]["labels"]["tier"] == "jobs" and template["metadata"]["annotations"] == {"note": "1"}
        assert template["spec"]["securityContext"]["fsGroup"] == 7 and template["spec"]["securityContext"]["runAsNonRoot"]


def a_container_takes_its_own_settings():
    values = {"lifecycle": {"preStop": {"sleep": {"seconds": 3}}}, "startupProbe": {"httpGet": {"path": "/livez", "port": "http"}},
              "envFrom": [{"secretRef": {"name": "own"}}]}
    objects = render({"controller": values, "workers": {"mail": {**values, "tmp": {"sizeLimit": "1Gi", "medium": "Memory"}}},
                      "envFrom": [{"configMapRef": {"name": "common"}}]})
    for component in ("controller", "mail"):
        c = container(objects, component)
        assert c["lifecycle"] == values["lifecycle"] and c["startupProbe"] == values["startupProbe"]
        assert c["envFrom"] == [{"configMapRef": {"name": "common"}}, {"secretRef": {"name": "own"}}]
    [tmp] = [v for v in pod(objects, "mail")["volumes"] if v["name"] == "tmp"]
    assert tmp == {"name": "tmp", "emptyDir": {"sizeLimit": "1Gi", "medium": "Memory"}}
    [tmp] = [v for v in pod(render({}), "mail")["volumes"] if v["name"] == "tmp"]
    assert tmp == {"name": "tmp", "emptyDir": {}}


def of_two_variables_of_one_name_the_later_one_stays():
    objects = render({"extraEnv": [{"name": "RUST_LOG", "value": "info"}, {"name": "ROWLOCK_HTTP", "value": "0.0.0.0:9464"}],
                      "controller": {"extraEnv": [{"name": "RUST_LOG", "value": "debug"}, {"name": "ROWLOCK_RELEASE", "value": "x"}]},
                      "workers": {"mail": {"extraEnv": [{"name": "POD_NAME", "value": "me"}]}}})
    control, work = env(container(objects, "controller")), env(container(objects, "mail"))
    assert (control["RUST_LOG"], control["ROWLOCK_RELEASE"], control["ROWLOCK_HTTP"]) == ("debug", "x", "0.0.0.0:9464")
    assert (work["RUST_LOG"], work["POD_NAME"], work["ROWLOCK_HTTP"]) == ("info", "me", "0.0.0.0:9464")


def a_database_that_is_given_goes_before_the_charts():
    url = [{"name": "PASSWORD", "value": "p"}, {"name": "ROWLOCK_DATABASE_URL", "value": "postgres://a:$(PASSWORD)@b/c"}]
    objects = render({"extraEnv": url, "test": {"jobType": "t"}})
    test = objects["Pod", "rel-rowlock-test"]["spec"]
    for c in [container(objects, "controller"), container(objects, "controller", "migrate"), container(objects, "mail"),
              *test["containers"], *test["initContainers"]]:
        names = [e["name"] for e in c["env"]]
        # What it refers to stands before it.
        assert names.index("PASSWORD") < names.index("ROWLOCK_DATABASE_URL")
        assert "ROWLOCK_DATABASE_URL_FILE" not in names and env(c)["ROWLOCK_DATABASE_URL"] == url[1]["value"]


def volumes_and_mounts_that_are_given_go_before_the_charts():
    ram = {"name": "tmp", "emptyDir": {"medium": "Memory"}}
    objects = render({"extraVolumes": [{"name": "certs", "secret": {"secretName": "c"}}],
                      "extraVolumeMounts": [{"name": "certs", "mountPath": "/certs"}],
                      "workers": {"mail": {"extraVolumes": [ram], "extraVolumeMounts": [{"name": "certs", "mountPath": "/tmp"}]}}})
    spec = pod(objects, "mail")
    assert [v for v in spec["volumes"] if v["name"] == "tmp"] == [ram]
    assert {m["mountPath"]: m["name"] for m in container(objects, "mail")["volumeMounts"]} == {"/certs": "certs", "/tmp": "certs"}
    mounts = [container(objects, "controller"), container(objects, "controller", "migrate")]
    assert all({"name": "certs", "mountPath": "/certs"} in c["volumeMounts"] for c in mounts)


def the_controller_and_workers_that_only_make_pods_read_the_url_from_a_file():
    database = {"existingSecret": "db", "workerKey": "work", "listenKey": "direct"}
    objects = render({"database": database, "workers": {"big": PODS}})
    for component, key in (("controller", "url"), ("big", "work")):
        c = container(objects, component)
        assert env(c)["ROWLOCK_DATABASE_URL_FILE"] == "/etc/rowlock/database/url" and "ROWLOCK_DATABASE_URL" not in env(c)
        assert env(c)["ROWLOCK_LISTEN_URL_FILE"] == "/etc/rowlock/database/listen"
        # A subPath would never change.
        assert {"name": "database", "mountPath": "/etc/rowlock/database", "readOnly": True} in c["volumeMounts"]
        [volume] = [v["secret"] for v in pod(objects, component)["volumes"] if v["name"] == "database"]
        assert volume == {"secretName": "db", "items": [{"key": key, "path": "url"}, {"key": "direct", "path": "listen"}]}
    # A job in a worker could read such a file.
    beside = env(container(objects, "mail"))
    assert beside["ROWLOCK_DATABASE_URL"]["secretKeyRef"] == {"name": "db", "key": "work"}
    assert "ROWLOCK_DATABASE_URL_FILE" not in beside and "ROWLOCK_LISTEN_URL_FILE" not in beside
    other = render({"database": {**database, "urlFile": False}, "workers": {"mail": {"urlFile": True}, "big": PODS}})
    files = {c: "ROWLOCK_DATABASE_URL_FILE" in env(container(other, c)) for c in ("controller", "mail", "big")}
    assert files == {"controller": False, "mail": True, "big": False}, files


def service_accounts_have_annotations_of_their_own():
    objects = render({"serviceAccounts": {"annotations": {"all": "1"}},
                      "controller": {"serviceAccount": {"name": "steering", "annotations": {"role": "c"}}},
                      "workers": {"mail": {"serviceAccount": {"annotations": {"role": "m"}}},
                                  "big": {**PODS, "serviceAccount": {"create": True}}, "bare": {"queues": ["b"]}}})
    accounts = {name: o["metadata"].get("annotations") for (kind, name), o in objects.items() if kind == "ServiceAccount"}
    assert accounts == {"steering": {"all": "1", "role": "c"}, "rel-rowlock-mail": {"all": "1", "role": "m"},
                        "rel-rowlock-big": {"all": "1"}, "rel-rowlock-worker": {"all": "1"}}, accounts
    used = {c: pod(objects, c)["serviceAccountName"] for c in ("controller", "mail", "big", "bare")}
    assert used == {"controller": "steering", "mail": "rel-rowlock-mail", "big": "rel-rowlock-big", "bare": "rel-rowlock-worker"}
    assert bound(objects) == {"controller": ["steering"], "launcher": ["rel-rowlock-big"]}, bound(objects)


def bound(objects):
    bindings = [o for (kind, _), o in objects.items() if kind == "RoleBinding"]
    return {o["roleRef"]["name"].removeprefix("rel-rowlock-"): [s["name"] for s in o["subjects"]] for o in bindings}


def service_accounts_can_be_others_to_make():
    objects = render({"serviceAccounts": {"create": False}, "controller": {"serviceAccount": {"name": "steering"}},
                      "workers": {"mail": {"serviceAccount": {"name": "posting"}}, "big": {**PODS, "serviceAccountName": "making"},
                                  "own": {"queues": ["o"], "serviceAccount": {"create": True}}}})
    assert [name for kind, name in objects if kind == "ServiceAccount"] == ["rel-rowlock-own"]
    used = {c: pod(objects, c)["serviceAccountName"] for c in ("controller", "mail", "big", "own")}
    assert used == {"controller": "steering", "mail": "posting", "big": "making", "own": "rel-rowlock-own"}, used
    assert bound(objects) == {"controller": ["steering"], "launcher": ["making"]}, bound(objects)
    assert not [kind for kind, _ in render({"rbac": {"create": False}}) if kind.startswith("Role")]


def two_workers_may_share_an_account_with_the_same_annotations():
    account = {"name": "shared", "annotations": {"role": "r"}}
    objects = render({"workers": {"a": {"queues": ["a"], "serviceAccount": account},
                                  "b": {"queues": ["b"], "serviceAccount": account}}})
    assert ("ServiceAccount", "shared") in objects
    other = {"name": "shared", "annotations": {"role": "s"}}
    refused({"workers": {"a": {"queues": ["a"], "serviceAccount": account}, "b": {"queues": ["b"], "serviceAccount": other}}},
            "workers.b.serviceAccount")
    refused({"workers": {"mail": {"serviceAccount": {"create": False, "annotations": {"a": "b"}}}}},
            "workers.mail.serviceAccount.annotations")


def labels_of_selectors_are_refused_by_name():
    for key in ("name", "instance", "component", "part-of", "managed-by"):
        label = {f"app.kubernetes.io/{key}": "x"}
        for place, values in ((f"controller.{f}", {"controller": {f: label}}) for f in ("labels", "podLabels")):
            refused(values, f"{place}: app.kubernetes.io/{key}")
        refused({"workers": {"mail": {"podLabels": label}}}, f"workers.mail.podLabels: app.kubernetes.io/{key}")
        refused({"commonLabels": label}, f"commonLabels: app.kubernetes.io/{key}")
    # The controller would scale itself, and read any ConfigMap as a catalogue.
    refused({"controller": {"labels": {"rowlock.dev/worker": "true"}}}, "controller.labels: rowlock.dev/worker")
    refused({"commonLabels": {"rowlock.dev/job-types": "true"}}, "commonLabels: rowlock.dev/job-types")
    refused({"workers": {"mail": {"annotations": {"rowlock.dev/max-replicas": "3"}}}}, "workers.mail.annotations: rowlock.dev/")


def other_labels_have_one_value_for_a_key():
    version = "app.kubernetes.io/version"
    objects = render({"commonLabels": {version: "common", "team": "a"}, "commonAnnotations": {"x": "1"},
                      "controller": {"podLabels": {version: "own", "team": "b"}, "annotations": {"x": "2"}},
                      "serviceMonitor": {"enabled": True, "labels": {"team": "c"}, "scrapeTimeout": "5s"}})
    found = deployment(objects, "controller")
    labels = found["spec"]["template"]["metadata"]["labels"]
    assert (labels[version], labels["team"]) == ("own", "b")
    assert found["metadata"]["labels"]["team"] == "a" and found["metadata"]["annotations"]["x"] == "2"
    monitor = objects["ServiceMonitor", "rel-rowlock-controller"]
    assert monitor["metadata"]["labels"]["team"] == "c" and monitor["spec"]["endpoints"][0]["scrapeTimeout"] == "5s"


def policies(values):
    objects = render(merged({"networkPolicy": {"enabled": True}}, values))
    return {name.removeprefix("rel-rowlock-"): o for (kind, name), o in objects.items() if kind == "NetworkPolicy"}


def ports(policy):
    return [[(p["port"], p["protocol"]) for p in rule.get("ports", [])] for rule in policy["spec"].get("egress", [])]


def a_network_policy_knows_several_ports_and_where_they_are():
    peers = {name: [{"ipBlock": {"cidr": f"10.0.0.{n}/32"}}] for n, name in enumerate(("databaseTo", "dnsTo", "apiServerTo"))}
    found = policies({"networkPolicy": {"databasePorts": [6432, 5432], "dnsPorts": [53, 5353], "apiServerPorts": [6443], **peers,
                                        "controllerEgress": [{"ports": [{"port": 3307, "protocol": "TCP"}]}]}})
    egress = found["controller"]["spec"]["egress"]
    assert ports(found["controller"]) == [
        [(53, "UDP"), (53, "TCP"), (5353, "UDP"), (5353, "TCP")], [(6432, "TCP"), (5432, "TCP")], [(6443, "TCP")], [(3307, "TCP")]]
    assert [rule.get("to") for rule in egress[:3]] == [peers["dnsTo"], peers["databaseTo"], peers["apiServerTo"]]


def workers_go_on_in_a_namespace_that_denies_all():
    found = policies({"workers": {"big": PODS}})["workers"]["spec"]
    assert found["policyTypes"] == ["Ingress", "Egress"] and {} in found["egress"]
    closed = policies({"networkPolicy": {"workerEgress": []}})["workers"]
    assert ports(closed) == [[(53, "UDP"), (53, "TCP")], [(5432, "TCP")]]
    launching = policies({"networkPolicy": {"workerEgress": []}, "workers": {"big": PODS}})["workers"]
    assert [(443, "TCP"), (6443, "TCP")] in ports(launching)


def the_migration_and_the_test_reach_the_database_in_a_namespace_that_denies_all():
    found = policies({"migrations": {"mode": "hookJob"}})
    for component in ("migrate", "test"):
        policy = found[component]
        assert policy["spec"]["podSelector"]["matchLabels"]["app.kubernetes.io/component"] == component
        assert [(5432, "TCP")] in ports(policy) and policy["spec"]["ingress"] == []
    hook = found["migrate"]["metadata"]["annotations"]
    assert hook["helm.sh/hook"] == "pre-install,pre-upgrade" and int(hook["helm.sh/hook-weight"]) < 0
    assert "migrate" not in policies({})


def nobody_to_scrape_is_nobody():
    # An empty "from" would be everybody.
    for policy in ("controller", "workers"):
        assert policies({"networkPolicy": {"scrapeFrom": []}})[policy]["spec"]["ingress"] == []
    for ports_of in ("databasePorts", "dnsPorts", "apiServerPorts"):
        refused({"networkPolicy": {ports_of: []}}, f"/networkPolicy/{ports_of}")


CASES = [
    containers_are_added_before_and_beside_the_charts_own,
    a_proxy_of_the_controller_is_there_for_the_migration_and_the_test_too,
    a_deployment_takes_its_own_settings,
    a_pod_takes_its_own_settings,
    a_container_takes_its_own_settings,
    of_two_variables_of_one_name_the_later_one_stays,
    a_database_that_is_given_goes_before_the_charts,
    volumes_and_mounts_that_are_given_go_before_the_charts,
    the_controller_and_workers_that_only_make_pods_read_the_url_from_a_file,
    service_accounts_have_annotations_of_their_own,
    service_accounts_can_be_others_to_make,
    two_workers_may_share_an_account_with_the_same_annotations,
    labels_of_selectors_are_refused_by_name,
    other_labels_have_one_value_for_a_key,
    a_network_policy_knows_several_ports_and_where_they_are,
    workers_go_on_in_a_namespace_that_denies_all,
    the_migration_and_the_test_reach_the_database_in_a_namespace_that_denies_all,
    nobody_to_scrape_is_nobody,
]


def main():
    for values in sys.argv[2:]:
        with open(values, encoding="utf-8") as file:
            for o in yaml.load_all(file, Strict):
                if o:
                    whole(o)
    failed = 0
    for case in CASES:
        name = case.__name__.replace("_", " ")
        try:
            case()
            print(f"ok: {name}")
        except (AssertionError, KeyError, ValueError, yaml.YAMLError) as error:
            failed += 1
            print(f"not ok: {name}\n{type(error).__name__}: {error}")
    print(f"{len(CASES) - failed} passed, {failed} failed")
    return failed > 0


if __name__ == "__main__":
    HELM = sys.argv[1]
    sys.exit(main())
