"""Serves Keystone: identity.py CONFIGURATION PORT. One request at a time is enough for tests."""
import os
import sys
from wsgiref.simple_server import WSGIServer, make_server

os.environ["OS_KEYSTONE_CONFIG_FILES"] = sys.argv[1]
port = int(sys.argv[2])
# Keystone looks at the arguments too.
sys.argv[1:] = []

from keystone.server.wsgi import initialize_public_application  # noqa: E402


class Server(WSGIServer):
    request_queue_size = 128
    # Another store may be listening there already, which has to be an error.
    allow_reuse_port = False


make_server("127.0.0.1", port, initialize_public_application(), server_class=Server).serve_forever()
