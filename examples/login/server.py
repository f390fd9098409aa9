"""A login in Python (3.9 or newer, no packages): the application gives its users tokens, and publishes to their topics.

    python3 examples/login/server.py

In an application of your own, a library makes the tokens: PyJWT, or Authlib.
"""

import base64
import hashlib
import hmac
import json
import os
import pathlib
import time
import urllib.error
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

HUB = os.environ.get("HUB", "http://127.0.0.1:6455")
PORT = int(os.environ.get("PORT", "8000"))
SECRET = os.environ.get("SECRET", "at least thirty-two bytes of secret").encode()
USERS = {"alice": "wonderland", "bob": "builder"}
BODY_MAX = 10_000
PAGE = pathlib.Path(__file__).with_name("page.html").read_bytes()


def encode(value):
    return base64.urlsafe_b64encode(value).rstrip(b"=").decode()


def sign(text):
    return encode(hmac.new(SECRET, text.encode(), hashlib.sha256).digest())


def token_of(claims):
    """Returns a token (RFC 7519) with these claims, which is valid for ten minutes."""
    header = encode(json.dumps({"alg": "HS256", "typ": "JWT"}).encode())
    payload = encode(json.dumps({**claims, "exp": int(time.time()) + 600}).encode())
    return f"{header}.{payload}.{sign(f'{header}.{payload}')}"


def user_of(token):
    """Returns the user of a token of this application, or None."""
    signed, _, signature = token.rpartition(".")
    if not hmac.compare_digest(sign(signed).encode(), signature.encode()):
        return None
    payload = signed.partition(".")[2]
    claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    return claims["sub"] if claims["exp"] > time.time() else None


def publish(topic, message):
    token = token_of({"sub": "application", "publish": ["orders/*"]})
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    request = urllib.request.Request(f"{HUB}/t/{topic}", json.dumps(message).encode(), headers, method="POST")
    try:
        urllib.request.urlopen(request, timeout=5).close()
    except urllib.error.HTTPError as error:
        raise RuntimeError(f"the hub answers {error.code}: {error.read().decode()}") from error


class Application(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.answer(*((200, PAGE, "text/html") if self.path == "/" else (404, b"{}")))

    def do_POST(self):
        body = self.body()
        if body is None:
            return
        routes = {"/login": self.login, "/pay": self.pay}
        try:
            self.answer(*routes.get(self.path, lambda _: (404, b"{}"))(body))
        except Exception as error:
            self.log_error("%s", error)
            self.answer(500, b"{}")

    def body(self):
        """Returns the whole body; None if the request is refused. What was not read must not be the next request."""
        length = self.headers.get("Content-Length", "0")
        is_number = length.isascii() and length.isdigit()
        if "Transfer-Encoding" in self.headers or not is_number:
            status = 400
        elif len(length) > 9 or int(length) > BODY_MAX:
            status = 413
        else:
            return self.rfile.read(int(length))
        self.close_connection = True
        self.answer(status, b"{}")
        return None

    def login(self, body):
        given = json.loads(body)
        user = given["user"]
        if user not in USERS or USERS[user] != given["password"]:
            return 401, b"{}"
        topic = f"orders/{user}"
        token = token_of({"sub": user, "subscribe": [topic]})
        answer = {"hub": HUB.replace("http", "ws", 1), "topic": topic, "token": token}
        return 200, json.dumps(answer).encode()

    def pay(self, _):
        user = user_of(self.headers.get("Authorization", "").removeprefix("Bearer "))
        if user is None:
            return 401, b"{}"
        publish(f"orders/{user}", {"state": "paid", "by": user})
        return 202, b"{}"

    def answer(self, status, body, kind="application/json"):
        self.send_response(status)
        self.send_header("Content-Type", f"{kind}; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)


if __name__ == "__main__":
    server = ThreadingHTTPServer(("127.0.0.1", PORT), Application)
    print(f"http://127.0.0.1:{PORT}", flush=True)
    server.serve_forever()
