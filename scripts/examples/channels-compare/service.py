"""One Django service, twice: behind Sluice (wsgi) and with Channels (asgi). It echoes what clients
say, and subscribes them to the topic in ?topic=, to which POST /publish?topic= publishes."""
import json
import os
from urllib.parse import parse_qs

import django
from django.conf import settings
from django.core.asgi import get_asgi_application
from django.core.wsgi import get_wsgi_application
from django.http import HttpResponse
from django.urls import path

layer = {"BACKEND": "channels_redis.pubsub.RedisPubSubChannelLayer",
         "CONFIG": {"hosts": [os.environ.get("REDIS", "redis://127.0.0.1:6399")]}}
settings.configure(SECRET_KEY="example", ROOT_URLCONF=__name__, ALLOWED_HOSTS=["*"],
                   CHANNEL_LAYERS={"default": layer})
django.setup()

from channels.generic.websocket import AsyncWebsocketConsumer  # it reads the settings
from channels.layers import get_channel_layer
from channels.routing import ProtocolTypeRouter, URLRouter


def event(name, content=b""):
    return b"%s %x\r\n%s\r\n" % (name, len(content), content)


def room(request):
    out, body = b"", request.body
    while body:
        line, _, body = body.partition(b"\r\n")
        name, _, size = line.partition(b" ")
        n = int(size or b"0", 16)
        content, body = body[:n], body[n + 2:] if size else body
        if name == b"OPEN":
            out += b"OPEN\r\n"
            for topic in request.GET.getlist("topic"):
                control = json.dumps({"type": "subscribe", "channel": topic})
                out += event(b"TEXT", b"c:" + control.encode())
        elif name in (b"TEXT", b"BINARY"):
            out += event(name, b"m:" + content)
        elif name == b"CLOSE":
            out += event(b"CLOSE", content)
    response = HttpResponse(out, content_type="application/websocket-events")
    response["Sec-WebSocket-Extensions"] = "grip"
    return response


async def publish(request):
    message = {"type": "websocket.send", "text": request.body.decode()}
    await get_channel_layer().group_send(request.GET["topic"], message)
    return HttpResponse("ok")


class Room(AsyncWebsocketConsumer):
    async def connect(self):
        self.topics = parse_qs(self.scope["query_string"].decode()).get("topic", [])
        for topic in self.topics:
            await self.channel_layer.group_add(topic, self.channel_name)
        await self.accept()

    async def disconnect(self, code):
        for topic in self.topics:
            await self.channel_layer.group_discard(topic, self.channel_name)

    async def receive(self, text_data=None, bytes_data=None):
        await self.send(text_data, bytes_data)

    async def websocket_send(self, message):
        await self.send(message["text"])


urlpatterns = [path("ws/chat/", room), path("publish", publish)]
wsgi = get_wsgi_application()
asgi = ProtocolTypeRouter({"http": get_asgi_application(),
                           "websocket": URLRouter([path("ws/chat/", Room.as_asgi())])})
