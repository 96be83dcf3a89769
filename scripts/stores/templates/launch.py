"""Runs a server of Swift: launch.py CONFIGURATION NAME.

Debian's programs read /etc/swift/swift.conf whatever `swift_dir` says, so that the folder is set before anything else is imported.
"""
import os
import sys

import swift.common.utils

configuration, name = sys.argv[1], sys.argv[2]
swift.common.utils.set_swift_dir(os.path.dirname(os.path.abspath(configuration)))

from swift.common.wsgi import run_wsgi  # noqa: E402

more = {}
if name == "object-server":
    from swift.obj import server

    more["global_conf_callback"] = server.global_conf_callback
sys.exit(run_wsgi(configuration, name, verbose=True, **more))
