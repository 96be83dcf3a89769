"""Writes the rings of a Swift with one copy on one device: rings.py DIR ACCOUNT_PORT CONTAINER_PORT OBJECT_PORT."""
import os
import sys

from swift.common.ring import RingBuilder

for name, port in zip(("account", "container", "object"), map(int, sys.argv[2:])):
    builder = RingBuilder(4, 1, 0)
    place = {"ip": "127.0.0.1", "port": port, "replication_ip": "127.0.0.1", "replication_port": port}
    builder.add_dev({"id": 0, "region": 1, "zone": 1, "device": "d1", "weight": 1.0, "meta": "", **place})
    builder.rebalance()
    builder.get_ring().save(os.path.join(sys.argv[1], name + ".ring.gz"))
