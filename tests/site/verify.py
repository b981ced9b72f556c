# Verifies the mounted token as any Python service would: by Google's own library.
import os

import google.auth.transport.requests
from google.oauth2 import id_token

token = open(os.environ["IDTOKEN_FILE_ORDERS"]).read()
request = google.auth.transport.requests.Request()
certs = os.environ["CERTS_URL"]
audience = os.environ["AUDIENCE"]

claims = id_token.verify_token(token, request, audience=audience, certs_url=certs)
print("verified", claims["aud"], claims["email"])
try:
    id_token.verify_token(token, request, audience="https://elsewhere.a.run.app", certs_url=certs)
    print("accepted for another audience")
except Exception as error:
    print("refused for another audience:", error)
head, payload, signature = token.split(".")
changed = "A" if signature[0] != "A" else "B"
try:
    id_token.verify_token(f"{head}.{payload}.{changed}{signature[1:]}", request, audience=audience, certs_url=certs)
    print("accepted when changed")
except Exception:
    print("refused when changed")
print("done")
