"""The container's health check: whether ``/healthz`` of a configuration's daemon answers 200."""

import os
import ssl
import sys
import urllib.request

from txtransfers.config import load

settings = load(sys.argv[1], os.environ)
# It is asked whether it answers, over the loopback: not whether it is who its certificate says.
context = ssl.create_default_context()
context.check_hostname = False
context.verify_mode = ssl.CERT_NONE
address = (settings.http_bind_addresses or ["127.0.0.1"])[0].replace("0.0.0.0", "127.0.0.1")
host = f"[{address}]".replace("[::]", "[::1]") if ":" in address else address
scheme = "https" if settings.ssl_enabled else "http"
url = f"{scheme}://{host}:{settings.http_port}/healthz"
opener = urllib.request.build_opener(
    urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context)
)
with opener.open(url, timeout=8) as answer:
    sys.exit(answer.status != 200)
