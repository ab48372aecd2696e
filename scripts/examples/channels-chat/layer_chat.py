"""The Django chat room, published through a Channels layer (python3 layer_chat.py [PORT])."""
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "django-chat"))
import chat
from asgiref.sync import async_to_sync
from channels.layers import get_channel_layer

chat.settings.CHANNEL_LAYERS = {"default": {
    "BACKEND": "channels_redis.pubsub.RedisPubSubChannelLayer",
    "CONFIG": {"hosts": [os.environ.get("REDIS", "redis://127.0.0.1:6399")]},
}}


def publish(room, text):
    """What a Channels deployment does anywhere: in a view, a task, a management command."""
    message = {"type": "websocket.send", "text": text}
    async_to_sync(get_channel_layer().group_send)(room, message)


chat.publish = publish

if __name__ == "__main__":
    port = (sys.argv[1:] or ["9000"])[0]
    chat.execute_from_command_line([sys.argv[0], "runserver", "--noreload", "127.0.0.1:" + port])
