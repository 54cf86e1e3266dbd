"""Checks deploy/: schemas, options of gemma-xla, and what has to agree between files. Afterwards it
breaks a copy in one place after the other and holds that each break is found.
"""

import argparse
import json
import math
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import jsonschema
import kubernetes_validate
import yaml

import flags

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
KUBERNETES = "1.34"
CUSTOM = {"PodMonitoring"}
JSON_FILES = {
    "vertex/model.json": "vertex-model",
    "vertex/deploy.json": "vertex-deploy",
    "huggingface/endpoint.json": "huggingface-endpoint",
}
ROUTES = {"/health", "/ping", "/metrics"}
# Names of variables that the program, its plugins or a platform's contract read.
VARIABLES = {
    "HF_TOKEN", "HF_HOME", "HF_ENDPOINT", "HF_HUB_OFFLINE", "GEMMA_XLA_API_KEY", "GEMMA_XLA_CACHE", "GEMMA_XLA_PLUGINS",
    "GEMMA_XLA_PLUGIN_CPU", "GEMMA_XLA_PLUGIN_TPU", "GEMMA_XLA_LOG",
}
SERVERS = ["gke/cpu.yaml", "gke/tpu-v5e.yaml", "gke/tpu-v6e.yaml"]
CHIPS = {"tpu-v5-lite-podslice": {1, 4, 8}, "tpu-v6e-slice": {1, 4, 8}}


class Findings(list):
    def add(self, where, what):
        self.append(f"{where}: {what}")


def load(folder, found):
    """The documents of all YAML files, by file."""
    documents = {}
    for path in sorted(folder.rglob("*.yaml")):
        name = str(path.relative_to(folder))
        try:
            documents[name] = [document for document in yaml.safe_load_all(path.read_text()) if document]
        except yaml.YAMLError as error:
            found.add(name, f"is not YAML: {error}")
    return documents


def schema_problems(schema, value):
    validator = jsonschema.Draft202012Validator(json.loads((HERE / "schemas" / f"{schema}.json").read_text()))
    for error in validator.iter_errors(value):
        yield f"{error.json_path}: {error.message}"


def check_schemas(folder, documents, found):
    for name, parts in documents.items():
        for document in parts:
            kind = document.get("kind")
            if kind in CUSTOM:
                for problem in schema_problems(kind, document):
                    found.add(f"{name}: {kind}", problem)
                continue
            try:
                kubernetes_validate.validate(document, KUBERNETES, strict=True)
            except kubernetes_validate.ValidationError as error:
                found.add(f"{name}: {kind}", error.message)
            except (kubernetes_validate.SchemaNotFoundError, kubernetes_validate.InvalidSchemaError) as error:
                found.add(f"{name}: {kind}", str(error))
    for name, schema in JSON_FILES.items():
        try:
            value = json.loads((folder / name).read_text())
        except (OSError, ValueError) as error:
            found.add(name, str(error))
            continue
        for problem in schema_problems(schema, value):
            found.add(name, problem)


def of_kind(documents, kind):
    return [(name, document) for name, parts in documents.items() for document in parts if document.get("kind") == kind]


def options_of(arguments):
    """The options of a command line that writes --name=value."""
    options = {}
    for argument in arguments[1:]:
        name, _, value = argument.partition("=")
        options[name.removeprefix("--")] = value
    return options


def check_arguments(where, arguments, known, found):
    if not arguments or arguments[0] not in known:
        found.add(where, f"args begin with {arguments[:1]}, not with a subcommand")
        return
    for argument in arguments[1:]:
        option = re.fullmatch(r"--([a-z0-9-]+)(=.*)?", argument)
        if not option:
            found.add(where, f"{argument!r} is not written as --option=value")
        elif option[1] not in known[arguments[0]]:
            found.add(where, f"gemma-xla {arguments[0]} has no option --{option[1]}")


def check_pod(where, spec, found):
    """What every pod here must have."""
    security = spec.get("securityContext", {})
    if spec.get("automountServiceAccountToken") is not False:
        found.add(where, "the pod gets a token of the cluster, which it does not need")
    if security.get("seccompProfile", {}).get("type") != "RuntimeDefault":
        found.add(where, "no seccomp profile")
    is_tpu = "cloud.google.com/gke-tpu-accelerator" in spec.get("nodeSelector", {})
    if not is_tpu and (not security.get("runAsNonRoot") or security.get("runAsUser") != 65532):
        found.add(where, "it does not run as the image's user, who is not root")
    volumes = {volume["name"]: volume for volume in spec.get("volumes", [])}
    mounted = set()
    for container in spec["containers"]:
        context = container.get("securityContext", {})
        if context.get("allowPrivilegeEscalation") is not False or not context.get("readOnlyRootFilesystem"):
            found.add(where, "privileges may grow, or the root file system is not read-only")
        if context.get("capabilities", {}).get("drop") != ["ALL"]:
            found.add(where, "capabilities are not dropped")
        if context.get("privileged"):
            found.add(where, "it is privileged")
        resources = container.get("resources", {})
        if not resources.get("requests", {}).get("cpu") or not resources.get("limits", {}).get("memory"):
            found.add(where, "no request of processors, or no limit of memory")
        if re.search(r":latest$|/[^:]+$", container["image"]):
            found.add(where, f"the image {container['image']} has no tag of its own")
        paths = {}
        for mount in container.get("volumeMounts", []):
            mounted.add(mount["name"])
            paths[mount["mountPath"]] = mount["name"]
            if mount["name"] not in volumes:
                found.add(where, f"no volume is called {mount['name']}")
        shared = volumes.get(paths.get("/dev/shm"), {})
        if shared.get("emptyDir", {}).get("medium") != "Memory":
            found.add(where, "/dev/shm is not a volume in memory")
        for entry in container.get("env", []):
            if entry["name"] not in VARIABLES:
                found.add(where, f"nothing reads the variable {entry['name']}")
            # Under a read-only root what is written has to be on a volume.
            value = entry.get("value", "")
            if value.startswith("/") and not any(value.startswith(path + "/") for path in paths):
                found.add(where, f"{entry['name']}={value} is on no volume")
    for name in volumes.keys() - mounted:
        found.add(where, f"the volume {name} is mounted nowhere")


def check_server(where, document, found):
    """A Deployment that serves."""
    spec = document["spec"]["template"]["spec"]
    labels = document["spec"]["template"]["metadata"]["labels"]
    if document["spec"]["selector"]["matchLabels"] != labels or document["metadata"]["labels"] != labels:
        found.add(where, "labels and selector differ")
    if "replicas" in document["spec"]:
        found.add(where, "replicas are set, which the autoscaler decides")
    (container,) = spec["containers"]
    options = options_of(container["args"])
    ports = {port["name"]: port["containerPort"] for port in container.get("ports", [])}
    if options.get("host") != "0.0.0.0":
        found.add(where, "it listens on the loopback, where probes do not reach it")
    if ports.get("http") != int(options.get("port", 8000)):
        found.add(where, f"the container's port is {ports.get('http')}, and --port={options.get('port')}")
    for probe in ["startupProbe", "readinessProbe", "livenessProbe"]:
        get = container.get(probe, {}).get("httpGet", {})
        if get.get("path") != "/health" or get.get("port") != "http":
            found.add(where, f"{probe} does not ask /health on the port http")
    startup = container.get("startupProbe", {})
    if startup.get("periodSeconds", 10) * startup.get("failureThreshold", 3) < 600:
        found.add(where, "startupProbe ends before a model is loaded and compiled")
    wait = container.get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
    drain = int(options.get("drain-timeout", 60))
    grace = spec.get("terminationGracePeriodSeconds", 30)
    if grace < wait + drain + 10:
        found.add(where, f"terminationGracePeriodSeconds is {grace}, too short for {wait} s and --drain-timeout={drain}")
    mounts = [mount["mountPath"] for mount in container.get("volumeMounts", [])]
    keys = options.get("api-key-file", "")
    if not any(keys.startswith(mount + "/") for mount in mounts):
        found.add(where, f"--api-key-file={keys} is on no volume")
    check_tpu(where, spec, container, options, found)


def check_tpu(where, spec, container, options, found):
    """Chips of the node, of the resource and of the mesh."""
    selector = spec.get("nodeSelector", {})
    accelerator = selector.get("cloud.google.com/gke-tpu-accelerator")
    wanted = {
        part: container["resources"].get(part, {}).get("google.com/tpu") for part in ["requests", "limits"]
    }
    if accelerator is None:
        if any(wanted.values()) or options.get("device") == "tpu":
            found.add(where, "it wants TPUs, and the node has none")
        return
    topology = selector.get("cloud.google.com/gke-tpu-topology", "")
    chips = math.prod(int(side) for side in topology.split("x")) if re.fullmatch(r"\d+x\d+", topology) else 0
    mesh = math.prod(map(int, re.findall(r"=(\d+)", options.get("mesh", ""))))
    if accelerator not in CHIPS or chips not in CHIPS[accelerator]:
        found.add(where, f"no host has {topology} of {accelerator}")
    if wanted["requests"] != str(chips) or wanted["limits"] != str(chips) or mesh != chips:
        found.add(where, f"{topology} is {chips} chips, google.com/tpu {wanted}, --mesh={options.get('mesh')}")
    if options.get("device") != "tpu":
        found.add(where, "--device is not tpu")


def secrets_used(documents):
    """Secrets and their keys, by where they are used."""
    for name, parts in documents.items():
        for document in parts:
            if document["kind"] == "PodMonitoring":
                for endpoint in document["spec"]["endpoints"]:
                    secret = endpoint.get("authorization", {}).get("credentials", {}).get("secret")
                    if secret:
                        yield name, secret["name"], secret["key"]
            spec = document.get("spec", {}).get("template", {}).get("spec", {})
            for volume in spec.get("volumes", []):
                for item in volume.get("secret", {}).get("items", []):
                    yield name, volume["secret"]["secretName"], item["key"]
            for container in spec.get("containers", []):
                for entry in container.get("env", []):
                    secret = entry.get("valueFrom", {}).get("secretKeyRef")
                    if secret:
                        yield name, secret["name"], secret["key"]


def check_agreement(folder, documents, found):
    """What must be the same in several files."""
    readme = (folder / "README.md").read_text()
    made = set()
    for command in re.findall(r"kubectl create secret generic (.*)", readme.replace("\\\n", " ")):
        name = command.split()[0]
        made |= {(name, key) for key in re.findall(r"--from-(?:literal|file)=([\w-]+)=", command)}
    for where, name, key in secrets_used(documents):
        if (name, key) not in made:
            found.add(where, f"README.md makes no secret {name} with {key}")
    deployments = of_kind(documents, "Deployment")
    if sorted(name for name, _ in deployments) != sorted(SERVERS):
        found.add("gke", f"there are Deployments in {[name for name, _ in deployments]}")
    names = {document["metadata"]["name"] for _, document in deployments}
    labels = [document["spec"]["template"]["metadata"]["labels"] for _, document in deployments]
    for kind, path in [
        ("Service", ["spec", "selector"]),
        ("PodDisruptionBudget", ["spec", "selector", "matchLabels"]),
        ("PodMonitoring", ["spec", "selector", "matchLabels"]),
    ]:
        ones = of_kind(documents, kind)
        if len(ones) != 1:
            found.add("gke", f"there are {len(ones)} of {kind}")
        for name, document in ones:
            selector = document
            for part in path:
                selector = selector.get(part, {})
            if any(selector != label for label in labels):
                found.add(f"{name}: {kind}", f"selects {selector}, and pods have {labels[:1]}")
    ports = {
        port["name"]
        for _, document in deployments
        for container in document["spec"]["template"]["spec"]["containers"]
        for port in container.get("ports", [])
    }
    for name, document in of_kind(documents, "Service"):
        for port in document["spec"]["ports"]:
            if port["targetPort"] not in ports:
                found.add(f"{name}: Service", f"no pod has a port {port['targetPort']}")
    for name, document in of_kind(documents, "PodMonitoring"):
        for endpoint in document["spec"]["endpoints"]:
            if endpoint["port"] not in ports or endpoint.get("path", "/metrics") not in ROUTES:
                found.add(f"{name}: PodMonitoring", f"nothing answers {endpoint.get('path')} on {endpoint['port']}")
    for name, document in of_kind(documents, "HorizontalPodAutoscaler"):
        target = document["spec"]["scaleTargetRef"]
        if target["kind"] != "Deployment" or target["name"] not in names:
            found.add(f"{name}: HorizontalPodAutoscaler", f"there is no {target['kind']} {target['name']}")
        for metric in document["spec"]["metrics"]:
            given = metric.get("pods", {}).get("metric", {}).get("name")
            if given != "prometheus.googleapis.com|vllm:num_requests_waiting|gauge":
                found.add(f"{name}: HorizontalPodAutoscaler", f"the metric {given} is not that of waiting requests")
    granted = {name for _, role in of_kind(documents, "Role") for rule in role["rules"] for name in rule["resourceNames"]}
    for name, secret, _ in secrets_used({n: [d for d in p if d["kind"] == "PodMonitoring"] for n, p in documents.items()}):
        if secret not in granted:
            found.add(name, f"the collector may not read the secret {secret}")


def check_job(where, document, found):
    spec = document["spec"]
    (container,) = spec["template"]["spec"]["containers"]
    options = options_of(container["args"])
    shards = f"$(JOB_COMPLETION_INDEX)/{spec.get('completions')}"
    if spec.get("completionMode") != "Indexed" or options.get("shard") != shards:
        found.add(where, f"--shard={options.get('shard')} is not {shards}")
    if "resume" not in options or "$(JOB_COMPLETION_INDEX)" not in options.get("output", ""):
        found.add(where, "shards do not resume, or share a file of results")
    mounts = [mount["mountPath"] for mount in container["volumeMounts"]]
    for option in ["model", "input", "output"]:
        if not any(options.get(option, "").startswith(mount + "/") for mount in mounts):
            found.add(where, f"--{option}={options.get(option)} is on no volume")


def check_endpoints(folder, known, found):
    """Vertex AI's and Hugging Face's descriptions."""
    try:
        model = json.loads((folder / "vertex/model.json").read_text())["model"]["containerSpec"]
        endpoint = json.loads((folder / "huggingface/endpoint.json").read_text())["model"]
    except (KeyError, ValueError, OSError):
        return  # The schema says so.
    check_arguments("vertex/model.json", model.get("args", []), known, found)
    options = options_of(model.get("args", ["serve"]))
    if "port" in options:
        found.add("vertex/model.json", "--port overrides AIP_HTTP_PORT")
    port = model["ports"][0]["containerPort"]
    probe = model.get("startupProbe", {}).get("httpGet", {})
    if probe.get("path") != model.get("healthRoute") or probe.get("port") != port:
        found.add("vertex/model.json", "startupProbe does not ask healthRoute on the port")
    if model.get("healthRoute") == model.get("predictRoute"):
        found.add("vertex/model.json", "healthRoute and predictRoute are the same")
    check_arguments("huggingface/endpoint.json", endpoint.get("args", []), known, found)
    options = options_of(endpoint.get("args", ["serve"]))
    image = endpoint.get("image", {}).get("custom", {})
    if options.get("port") != str(image.get("port")) or options.get("host") != "0.0.0.0":
        found.add("huggingface/endpoint.json", f"it listens on {options.get('host')}:{options.get('port')}")
    if image.get("healthRoute") not in ROUTES:
        found.add("huggingface/endpoint.json", f"nothing answers {image.get('healthRoute')}")
    if options.get("model") != "/repository":
        found.add("huggingface/endpoint.json", "the model is mounted at /repository")
    for name in endpoint.get("env", {}):
        if name not in VARIABLES:
            found.add("huggingface/endpoint.json", f"nothing reads the variable {name}")


def check_dockerfile(folder, known, found):
    path = folder / "Dockerfile"
    text = path.read_text()
    linter = Path(sys.executable).with_name("hadolint")
    done = subprocess.run([linter, "--no-color", "--format", "tty", path], capture_output=True, text=True)
    for line in done.stdout.splitlines():
        found.add("Dockerfile", line.removeprefix(f"{path}:"))
    if done.returncode and not done.stdout:
        found.add("Dockerfile", done.stderr.strip())
    joined = re.sub(r"\\\n\s*", " ", text)
    rust = re.search(r'^rust-version = "([\d.]+)"', (ROOT / "Cargo.toml").read_text(), re.MULTILINE)[1]
    stages = dict(re.findall(r"^FROM (\S+) AS (\w+)$", joined, re.MULTILINE))
    stages = {name: image for image, name in stages.items()}
    if stages.get("build") != f"rust:{rust}-bookworm":
        found.add("Dockerfile", f"it builds with {stages.get('build')}, and Cargo.toml asks for {rust}")
    if not stages.get("runtime", "").startswith("gcr.io/distroless/cc-debian12:"):
        found.add("Dockerfile", f"it runs on {stages.get('runtime')}, whose glibc may not be the build's")
    runtime = joined[joined.index(" AS runtime") :] if " AS runtime" in joined else ""
    user = re.search(r"^USER (\d+):(\d+)$", runtime, re.MULTILINE)
    if not user or user[1] != "65532":
        found.add("Dockerfile", "the user is not 65532, by number")
    command = re.search(r"^CMD (\[.*\])$", runtime, re.MULTILINE)
    arguments = json.loads(command[1]) if command else []
    pairs = [f"{a}={b}" for a, b in zip(arguments[1::2], arguments[2::2], strict=False)]
    check_arguments("Dockerfile: CMD", arguments[:1] + pairs, known, found)
    exposed = re.search(r"^EXPOSE (\d+)$", runtime, re.MULTILINE)
    if not exposed or f"--port={exposed[1]}" not in pairs:
        found.add("Dockerfile", "EXPOSE and --port differ")
    for option in re.findall(r"--([a-z][a-z-]+)", re.search(r'SERVE_OPTIONS="([^"]*)"', joined)[1]):
        if option not in known["serve"]:
            found.add("Dockerfile", f"gemma-xla serve has no option --{option}")
    for name in re.findall(r"\b((?:GEMMA_XLA|HF)_[A-Z_]+)=", joined):
        if name not in VARIABLES:
            found.add("Dockerfile", f"nothing reads the variable {name}")
    kept = (folder / "Dockerfile.dockerignore").read_text().splitlines()
    for name in ["Cargo.toml", "Cargo.lock", "src", "hlo", "deploy/compile-programs"]:
        if f"!{name}" not in kept:
            found.add("Dockerfile.dockerignore", f"the build lacks {name}")


def check_readme(folder, known, found):
    text = (folder / "README.md").read_text()
    for name in re.findall(r"`?deploy/([\w./-]+\.(?:yaml|json))`?", text):
        if not (folder / name).is_file():
            found.add("README.md", f"there is no {name}")
    for subcommand, rest in re.findall(r"gemma-xla (serve|generate)((?: [^`\n]*)?)", text):
        for option in re.findall(r"--([a-z][a-z-]+)", rest):
            if option not in known[subcommand]:
                found.add("README.md", f"gemma-xla {subcommand} has no option --{option}")


def check(folder, known):
    """All findings about a folder."""
    found = Findings()
    documents = load(folder, found)
    check_schemas(folder, documents, found)
    if found:
        # What follows trusts the shapes.
        return found
    for name, document in of_kind(documents, "Deployment") + of_kind(documents, "Job"):
        spec = document["spec"]["template"]["spec"]
        check_pod(name, spec, found)
        for container in spec["containers"]:
            check_arguments(name, container.get("args", []), known, found)
    for name, document in of_kind(documents, "Deployment"):
        check_server(name, document, found)
    for name, document in of_kind(documents, "Job"):
        check_job(name, document, found)
    check_agreement(folder, documents, found)
    check_endpoints(folder, known, found)
    check_dockerfile(folder, known, found)
    check_readme(folder, known, found)
    return found


# File, what is replaced, by what, and a part of the finding that must follow.
BREAKS = [
    ("gke/cpu.yaml", "--rows=8", "--row=8", "no option --row"),
    ("gke/cpu.yaml", "--port=8000", "--port=8001", "and --port=8001"),
    ("gke/cpu.yaml", "path: /health", "path: /healthz", "does not ask /health"),
    ("gke/cpu.yaml", "readOnlyRootFilesystem: true", "readOnlyRootFilesystem: false", "not read-only"),
    ("gke/cpu.yaml", "runAsNonRoot: true", "runAsNonRoot: false", "who is not root"),
    ("gke/cpu.yaml", "terminationGracePeriodSeconds: 90", "terminationGracePeriodSeconds: 60", "too short"),
    ("gke/cpu.yaml", "key: hf-token", "key: token", "makes no secret gemma-xla with token"),
    ("gke/cpu.yaml", "medium: Memory", "medium: ''", "not a volume in memory"),
    ("gke/cpu.yaml", "containerPort: 8000", "containerPort: many", "many"),
    ("gke/cpu.yaml", "    spec:\n      #", "    specs:\n      #", "specs"),
    ("gke/cpu.yaml", "name: GEMMA_XLA_CACHE", "name: GEMMA_CACHE", "nothing reads the variable GEMMA_CACHE"),
    ("gke/cpu.yaml", "value: /cache/programs", "value: /var/programs", "is on no volume"),
    ("gke/cpu.yaml", "drop: [ALL]", "drop: [NET_RAW]", "capabilities"),
    ("gke/cpu.yaml", "--host=0.0.0.0", "--host=127.0.0.1", "loopback"),
    ("gke/cpu.yaml", "component: server", "component: web", "selects"),
    ("gke/cpu.yaml", "failureThreshold: 180", "failureThreshold: 3", "startupProbe ends"),
    ("gke/tpu-v5e.yaml", "topology: 2x4", "topology: 2x2", "is 4 chips"),
    ("gke/tpu-v5e.yaml", "model=8", "model=4", "--mesh=data=1,model=4"),
    ("gke/tpu-v6e.yaml", "tpu-v6e-slice", "tpu-v6", "no host has"),
    ("gke/tpu-v6e.yaml", "--device=tpu", "--device=cpu", "--device is not tpu"),
    ("gke/common.yaml", "targetPort: http", "targetPort: web", "no pod has a port web"),
    ("gke/common.yaml", "num_requests_waiting", "requests_waiting", "not that of waiting"),
    ("gke/common.yaml", "interval: 15s", "interval: often", "often"),
    ("gke/common.yaml", "path: /metrics", "path: /metric", "nothing answers /metric"),
    ("gke/common.yaml", "resourceNames: [gemma-xla-metrics]", "resourceNames: [gemma-xla]", "may not read"),
    ("gke/common.yaml", "maxUnavailable: 1", "maxUnavailable: 1\n  minReplicas: 2", "minReplicas"),
    ("gke/common.yaml", "kind: Deployment\n    name: gemma-xla", "kind: Deployment\n    name: gemma", "no Deployment gemma"),
    ("gke/batch-job.yaml", "(JOB_COMPLETION_INDEX)/8", "(JOB_COMPLETION_INDEX)/4", "is not $(JOB"),
    ("gke/batch-job.yaml", "--resume", "--continue", "no option --continue"),
    ("gke/batch-job.yaml", "results-$(JOB_COMPLETION_INDEX)", "results", "share a file"),
    ("gke/batch-job.yaml", "completionMode: Indexed", "completionMode: NonIndexed", "is not $(JOB"),
    ("vertex/model.json", '"predictRoute": "/predict"', '"predictRoute": "predict"', "predictRoute"),
    ("vertex/model.json", "--rows=8", "--port=8080", "overrides AIP_HTTP_PORT"),
    ("vertex/model.json", "sharedMemorySizeMb", "sharedMemory", "sharedMemory"),
    ("vertex/deploy.json", "minReplicaCount", "minReplicas", "minReplicas"),
    ("huggingface/endpoint.json", "healthRoute", "health_route", "health_route"),
    ("huggingface/endpoint.json", '"port": 8000', '"port": 80', "listens on"),
    ("huggingface/endpoint.json", "/repository", "/model", "/repository"),
    ("huggingface/endpoint.json", "{", "", "(char "),
    ("Dockerfile", "USER 65532:65532", "USER root", "65532"),
    ("Dockerfile", "rust:1.95-bookworm", "rust:latest", "DL3007"),
    ("Dockerfile", "rust:1.95-bookworm", "rust:1.90-bookworm", "Cargo.toml asks for"),
    ("Dockerfile", "EXPOSE 8000", "EXPOSE 80", "EXPOSE"),
    ("Dockerfile", "--prefill-chunk 64", "--chunk 64", "no option --chunk"),
    ("Dockerfile.dockerignore", "!hlo\n", "", "lacks hlo"),
    ("README.md", "hf-token=", "token=", "makes no secret"),
]


def try_breaks(folder, known):
    """The breaks that are not found."""
    missed = []
    for name, old, new, expected in BREAKS:
        with tempfile.TemporaryDirectory() as scratch:
            copy = Path(scratch) / "deploy"
            shutil.copytree(folder, copy)
            text = (copy / name).read_text()
            if old not in text:
                missed.append(f"{name}: has no {old!r} to break")
                continue
            (copy / name).write_text(text.replace(old, new))
            found = check(copy, known)
            if not any(expected in finding for finding in found):
                missed.append(f"{name}: {old!r} → {new!r} is not found: {found}")
    return missed


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--binary", help="ask its help for options, instead of the source")
    parser.add_argument("--source", type=Path, default=ROOT, help="a tree whose src/cli declares the options")
    options = parser.parse_args()
    known = {
        name: flags.of_binary(options.binary, name) if options.binary else flags.of_source(options.source, name)
        for name in ["serve", "generate"]
    }
    found = check(ROOT / "deploy", known)
    for finding in found:
        print(f"deploy/{finding}")
    if found:
        return 1
    missed = try_breaks(ROOT / "deploy", known)
    for miss in missed:
        print(f"self-test: {miss}")
    print(f"deploy: {len(BREAKS) - len(missed)} of {len(BREAKS)} broken variants are found")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
