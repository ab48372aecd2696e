"""A chat room: Django speaks HTTP, the gateway holds the WebSockets (python3 chat.py [PORT])."""
import json, os, sys
from urllib.request import Request, urlopen

from django.conf import settings
from django.core.management import execute_from_command_line
from django.core.wsgi import get_wsgi_application
from django.http import HttpResponse
from django.urls import path
from django.views.decorators.csrf import csrf_exempt

CONTROL = os.environ.get("CONTROL", "http://127.0.0.1:5561")  # where it is published
GATEWAY = os.environ.get("GATEWAY", "ws://127.0.0.1:8000")  # where browsers find it

settings.configure(DEBUG=True, SECRET_KEY="example", ROOT_URLCONF=__name__, ALLOWED_HOSTS=["*"],
                   LOGGING={"version": 1, "disable_existing_loggers": True})


def publish(room, text):
    item = {"channel": room, "formats": {"ws-message": {"content": text}}}
    body = json.dumps({"items": [item]}).encode()
    urlopen(Request(CONTROL + "/publish/", body, {"Content-Type": "application/json"}), timeout=5)


def events(body):
    """The WebSocket events of a request: (name, content)."""
    while body:
        line, _, body = body.partition(b"\r\n")
        name, _, size = line.partition(b" ")
        n = int(size or b"0", 16)
        yield name.decode(), body[:n]
        body = body[n + 2:] if size else body


@csrf_exempt
def room(request, name):
    out = b""

    def event(name, content=b""):
        return b"%s %x\r\n%s\r\n" % (name, len(content), content)
    for kind, content in events(request.body):
        if kind == "OPEN":
            subscribe = json.dumps({"type": "subscribe", "channel": name})
            out += b"OPEN\r\n" + event(b"TEXT", b"c:" + subscribe.encode())
            out += event(b"TEXT", b"m:welcome to " + name.encode())
        elif kind == "TEXT":
            publish(name, content.decode())
        elif kind == "CLOSE":
            out += event(b"CLOSE", content)
    response = HttpResponse(out, content_type="application/websocket-events")
    # Messages for the client begin with m:, control messages with c:
    response["Sec-WebSocket-Extensions"] = "grip"
    return response


def page(request):
    text = open(os.path.join(os.path.dirname(__file__), "page.html")).read()
    return HttpResponse(text.replace("GATEWAY", GATEWAY))


urlpatterns = [path("", page), path("ws/<name>/", room)]
application = get_wsgi_application()

if __name__ == "__main__":
    port = (sys.argv[1:] or ["9000"])[0]
    execute_from_command_line([sys.argv[0], "runserver", "--noreload", "127.0.0.1:" + port])
