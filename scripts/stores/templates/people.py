"""Fills a fresh Keystone: people.py URL PUBLIC_SWIFT_PORT INTERNAL_SWIFT_PORT; passwords come by the environment, made keys are printed."""
import json
import os
import sys
import urllib.request

url, public, internal = sys.argv[1:]


def call(method, path, body=None, token=None):
    headers = {"Content-Type": "application/json", **({"X-Auth-Token": token} if token else {})}
    data = None if body is None else json.dumps(body).encode()
    with urllib.request.urlopen(urllib.request.Request(url + path, data, headers, method=method)) as answer:
        text = answer.read()
        return answer.headers, json.loads(text) if text else None


def log_in(name, password, project):
    user = {"name": name, "domain": {"id": "default"}, "password": password}
    scope = {"project": {"name": project, "domain": {"id": "default"}}}
    identity = {"methods": ["password"], "password": {"user": user}}
    return call("POST", "/auth/tokens", {"auth": {"identity": identity, "scope": scope}})[0]["X-Subject-Token"]


admin = log_in("admin", os.environ["OS_BOOTSTRAP_PASSWORD"], "admin")


def make(kind, **members):
    return call("POST", f"/{kind}s", {kind: members}, admin)[1][kind]["id"]


def account(name, password, project, role):
    project = make("project", name=project, domain_id="default")
    user = make("user", name=name, password=password, domain_id="default", default_project_id=project)
    call("PUT", f"/projects/{project}/users/{user}/roles/{roles[role]}", token=admin)
    return user, project


roles = {role["name"]: role["id"] for role in call("GET", "/roles", token=admin)[1]["roles"]}
account("swift", os.environ["OS_SERVICE_PASSWORD"], "service", "admin")
user, project = account("demo", os.environ["OS_PASSWORD"], "demo", "member")
for endpoint in call("GET", "/endpoints", token=admin)[1]["endpoints"]:
    # Keystone's own: the empty one did not know its port yet.
    call("PATCH", f"/endpoints/{endpoint['id']}", {"endpoint": {"url": url}}, admin)
service = make("service", type="object-store", name="swift")
for interface, port in ("public", public), ("internal", internal), ("admin", internal):
    place = f"http://127.0.0.1:{port}/v1/AUTH_%(project_id)s"
    make("endpoint", service_id=service, interface=interface, region_id="RegionOne", url=place)

token = log_in("demo", os.environ["OS_PASSWORD"], "demo")
key = call("POST", f"/users/{user}/credentials/OS-EC2", {"tenant_id": project}, token)[1]["credential"]
wanted = {"application_credential": {"name": "coffer", "secret": os.environ["OS_APPLICATION_SECRET"]}}
made = call("POST", f"/users/{user}/application_credentials", wanted, token)[1]["application_credential"]
print(f"OS_PROJECT_ID={project}\nOS_APPLICATION_CREDENTIAL_ID={made['id']}\nOS_APPLICATION_CREDENTIAL_SECRET={made['secret']}")
print(f"S3_ACCESS_KEY_ID={key['access']}\nS3_SECRET_ACCESS_KEY={key['secret']}")
