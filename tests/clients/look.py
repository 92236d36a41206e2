"""Looks into a running farm with nats-py, a NATS client that is not the farm's own.

One command, one JSON document on stdout (`watch`: one line for each change). It only reads: nothing
is acknowledged, and no queue loses a message to it.
"""

import argparse
import asyncio
import json
import sys

import nats

# Bounds every wait for a server or for a change, in seconds.
PATIENCE_S = 180
# Everybody who answers does so within this, in seconds.
ANSWERS_S = 1


def credentials(path):
    """How to sign in: a .creds document or an nkey seed, told apart by what the file holds."""
    with open(path, encoding="utf-8") as file:
        return {"user_credentials": path} if "BEGIN NATS USER JWT" in file.read() else {"nkeys_seed": path}


async def streams(client, _):
    """Every stream, with its subjects and how many messages it holds."""
    found = await client.jetstream().streams_info()
    return [
        {
            "name": stream.config.name,
            "subjects": stream.config.subjects,
            "retention": stream.config.retention,
            "messages": stream.state.messages,
        }
        for stream in found
    ]


async def consumers(client, arguments):
    """The consumers of a stream: what waits for each, and what is in hand."""
    found = await client.jetstream().consumers_info(arguments.stream)
    return [
        {
            "name": consumer.name,
            "filter": consumer.config.filter_subject,
            "waiting": consumer.num_pending,
            "in_hand": consumer.num_ack_pending,
        }
        for consumer in found
    ]


async def message(client, arguments):
    """The last message under a subject, read without taking it."""
    found = await client.jetstream().get_last_msg(arguments.stream, arguments.subject, direct=True)
    return {"subject": found.subject, "headers": found.headers, "payload": json.loads(found.data)}


async def services(client, arguments):
    """Who answers `$SRV.<verb>`, as `nats micro` asks it."""
    inbox = client.new_inbox()
    answers = await client.subscribe(inbox)
    await client.publish(f"$SRV.{arguments.verb}", reply=inbox)
    found = []
    try:
        while True:
            found.append(json.loads((await answers.next_msg(timeout=ANSWERS_S)).data))
    except nats.errors.TimeoutError:
        return found


async def request(client, arguments):
    """One answer to an empty request."""
    return json.loads((await client.request(arguments.subject, b"", timeout=PATIENCE_S)).data)


async def watch(client, arguments):
    """Prints every change of a bucket, until the named count of keys has the named state."""
    bucket = await client.jetstream().key_value(arguments.bucket)
    watcher = await bucket.watchall()
    print(json.dumps({"watching": arguments.bucket}), flush=True)
    there = set()
    while len(there) < arguments.count:
        entry = await watcher.updates(timeout=PATIENCE_S)
        if entry is None:
            continue
        state = json.loads(entry.value)["state"]["name"]
        print(json.dumps({"key": entry.key, "revision": entry.revision, "state": state}), flush=True)
        if state == arguments.state:
            there.add(entry.key)
    await watcher.stop()


async def main(arguments):
    async def complain(error):
        print(f"nats-py: {error!r}", file=sys.stderr)

    client = await nats.connect(
        arguments.server,
        name="look",
        connect_timeout=PATIENCE_S,
        allow_reconnect=False,
        error_cb=complain,
        **credentials(arguments.credentials),
    )
    found = await arguments.look(client, arguments)
    if found is not None:
        print(json.dumps(found))
    await client.close()


def parse():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--server", required=True)
    parser.add_argument("--credentials", required=True)
    looks = parser.add_subparsers(required=True)
    for look, wanted in [
        (streams, []),
        (consumers, ["stream"]),
        (message, ["stream", "subject"]),
        (services, ["verb"]),
        (request, ["subject"]),
        (watch, ["bucket", "state", "count"]),
    ]:
        command = looks.add_parser(look.__name__, help=look.__doc__)
        command.set_defaults(look=look)
        for name in wanted:
            command.add_argument(name, type=int if name == "count" else str)
    return parser.parse_args()


if __name__ == "__main__":
    asyncio.run(main(parse()))
