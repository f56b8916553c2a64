#!/usr/bin/env python3
"""Write a container image that holds one static program and licences, as an archive that containerd, Docker, Podman and
skopeo read. It needs no container engine. The same input gives the same bytes (tests/image.sh).

usage: scripts/image.py PROGRAM NAME ARCHIVE [LICENCE…]   (run by make image; VERSION, REVISION, SOURCE and
SOURCE_DATE_EPOCH in the environment become labels and times; licences go into /licenses)
"""
import gzip
import hashlib
import io
import json
import os
import sys
import tarfile
from datetime import datetime, timezone

USER = 65532
MACHINES = {0x3E: "amd64", 0xB7: "arm64"}


def architecture(program):
    """As the program's own ELF header has it."""
    if program[:4] != b"\x7fELF":
        sys.exit("image: the program is not an ELF file; build it with: make static")
    machine = int.from_bytes(program[18:20], "little")
    return MACHINES.get(machine) or sys.exit(f"image: unknown machine {machine:#x} in the program's header")


def entry(name, mode, size=0, kind=tarfile.REGTYPE):
    info = tarfile.TarInfo(name)
    info.mode, info.size, info.type, info.mtime = mode, size, kind, 0
    return info


def tar(files):
    """A tar archive of (entry, bytes), with no trace of the machine it was made on."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for info, data in files:
            archive.addfile(info, io.BytesIO(data))
    return out.getvalue()


def layer(program, licences):
    # /tmp, because a worker keeps the files of its jobs there.
    files = [(entry("rowlock", 0o755, len(program)), program), (entry("tmp", 0o1777, kind=tarfile.DIRTYPE), b"")]
    if licences:
        files.append((entry("licenses", 0o755, kind=tarfile.DIRTYPE), b""))
    return tar(files + [(entry(f"licenses/{name}", 0o644, len(text)), text) for name, text in sorted(licences.items())])


def labels():
    found = {
        "title": "rowlock",
        "description": "A job queue in PostgreSQL",
        "licenses": "MIT OR Apache-2.0",
        "version": os.environ.get("VERSION"),
        "revision": os.environ.get("REVISION"),
        "source": os.environ.get("SOURCE"),
    }
    return {f"org.opencontainers.image.{key}": value for key, value in found.items() if value}


def config(arch, layer_digest, created):
    return {
        "architecture": arch,
        "os": "linux",
        "created": created,
        "config": {
            "User": f"{USER}:{USER}",
            "Entrypoint": ["/rowlock"],
            "Env": ["PATH=/", "ROWLOCK_HTTP=[::]:9464"],
            "ExposedPorts": {"9464/tcp": {}},
            "WorkingDir": "/",
            "Labels": labels(),
        },
        "rootfs": {"type": "layers", "diff_ids": [layer_digest]},
        "history": [{"created": created, "created_by": "make image"}],
    }


def digest(data):
    return "sha256:" + hashlib.sha256(data).hexdigest()


def image(program, name, licences):
    """The files of the archive, and the manifest's digest."""
    created = datetime.fromtimestamp(int(os.environ.get("SOURCE_DATE_EPOCH", 0)), timezone.utc)
    arch, content = architecture(program), layer(program, licences)
    packed = gzip.compress(content, 9, mtime=0)
    blobs = {}

    def blob(media_type, data, **more):
        blobs[digest(data)] = data
        return {"mediaType": media_type, "digest": digest(data), "size": len(data), **more}

    def text(value):
        return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()

    oci = "application/vnd.oci.image"
    the_layer = blob(f"{oci}.layer.v1.tar+gzip", packed)
    the_config = blob(f"{oci}.config.v1+json", text(config(arch, digest(content), created.isoformat())))
    manifest = {"schemaVersion": 2, "mediaType": f"{oci}.manifest.v1+json", "config": the_config,
                "layers": [the_layer], "annotations": labels()}
    names = {"io.containerd.image.name": name, "org.opencontainers.image.ref.name": name.rpartition(":")[2]}
    top = blob(f"{oci}.manifest.v1+json", text(manifest), platform={"architecture": arch, "os": "linux"},
               annotations=names)

    def path(descriptor):
        return "blobs/" + descriptor["digest"].replace(":", "/")

    # For Docker before 25, which knows no OCI layout.
    docker = [{"Config": path(the_config), "RepoTags": [name], "Layers": [path(the_layer)]}]
    files = {
        "oci-layout": text({"imageLayoutVersion": "1.0.0"}),
        "index.json": text({"schemaVersion": 2, "mediaType": f"{oci}.index.v1+json", "manifests": [top]}),
        "manifest.json": text(docker),
        **{"blobs/" + key.replace(":", "/"): data for key, data in sorted(blobs.items())},
    }
    return files, arch, top["digest"], len(packed), len(content)


def main():
    if len(sys.argv) < 4:
        sys.exit("usage: scripts/image.py PROGRAM NAME ARCHIVE [LICENCE…]")
    program, name, out, *paths = sys.argv[1:]
    if ":" not in name.rpartition("/")[2]:
        sys.exit(f"image: {name} has no tag; write {name}:TAG")
    licences = {}
    for path in paths:
        with open(path, "rb") as file:
            licences[os.path.basename(path)] = file.read()
    with open(program, "rb") as file:
        files, arch, top, packed, unpacked = image(file.read(), name, licences)
    os.makedirs(os.path.dirname(out) or ".", exist_ok=True)
    part = f"{out}.{os.getpid()}"
    with open(part, "wb") as file:
        file.write(tar((entry(path, 0o644, len(data)), data) for path, data in files.items()))
    os.replace(part, out)  # whole or not at all
    print(f"image: {name} linux/{arch} {top}, {unpacked / 2**20:.1f} MiB, compressed {packed / 2**20:.1f} MiB: {out}")


main()
