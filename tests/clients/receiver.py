"""The published library of Standard Webhooks for Python: is this post what its sender signed? One question on standard
input, as JSON: the secret, the headers, the body. Answers "good", or why not."""
import json, sys
from standardwebhooks import Webhook

asked = json.load(sys.stdin)
try:
    Webhook(asked["secret"]).verify(asked["body"], asked["headers"])
    print("good")
except Exception as error:
    print(f"{type(error).__name__}: {error}")
