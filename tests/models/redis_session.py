"""One connection to the model of Redis: every command, and what belongs to the connection."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from .glob import matches
from .redis_scripts import SCRIPTS, Script
from .redis_values import NO_NUMBER, SYNTAX, Command, Values, number_of
from .replies import OK, Failure, Push, Reply, Several, Status, Verbatim

if TYPE_CHECKING:
    from .redis_model import RedisModel

__all__ = ["Session"]

DATABASES = 16
VERSION = b"7.0.15"

NO_SCRIPT = Failure(b"NOSCRIPT No matching script. Please use EVAL.")
BAD_NAME = Failure(b"ERR Client names cannot contain spaces, newlines or special characters.")

# name -> how many words the command has, its own counted; negative: that many at least.
ARITIES = {
    b"AUTH": -2,
    b"CLIENT": -2,
    b"CLIENT|GETNAME": 2,
    b"CLIENT|ID": 2,
    b"CLIENT|SETNAME": 3,
    b"CONFIG": -2,
    b"CONFIG|GET": -3,
    b"DEL": -2,
    b"EVAL": -3,
    b"EVALSHA": -3,
    b"FLUSHALL": -1,
    b"FLUSHDB": -1,
    b"GET": 2,
    b"HELLO": -1,
    b"INFO": -1,
    b"LPUSH": -3,
    b"MGET": -2,
    b"PEXPIRE": -3,
    b"PING": -1,
    b"PTTL": 2,
    b"PUBLISH": 3,
    b"SCAN": -2,
    b"SCRIPT": -2,
    b"SCRIPT|EXISTS": -3,
    b"SCRIPT|FLUSH": -2,
    b"SCRIPT|LOAD": 3,
    b"SELECT": 2,
    b"SET": -3,
    b"SUBSCRIBE": -2,
    b"TIME": 1,
    b"UNLINK": -2,
    b"UNSUBSCRIBE": -1,
}
NEWER = (b"CLIENT|SETINFO",)  # redis-py asks for it, and Redis 7.0 does not know it either
CONTAINERS = (b"CLIENT", b"CONFIG", b"SCRIPT")
METHODS = {name: "do_" + name.decode().lower().replace("|", "_") for name in ARITIES}
WHILE_SUBSCRIBED = (b"SUBSCRIBE", b"UNSUBSCRIBE", b"PING")


class _Ends(Exception):
    """A script ends here, with the error reply of a command in it."""


class Session(Values):
    """One connection: its database, protocol, name and channels."""

    def __init__(self, model: RedisModel, number: int, push: Callable[[Push], object]) -> None:
        self.model = model
        self.number = number
        self.push = push
        self.database = 0
        self.protocol = 2
        self.name = b""
        self.channels: dict[bytes, None] = {}

    def __repr__(self) -> str:
        return f"<Session {self.number}, database {self.database}, RESP{self.protocol}>"

    def close(self) -> None:
        """End the connection."""
        for channel in list(self.channels):
            self._leave(channel)

    def execute(self, command: Command) -> Reply:
        """Run one command and return its reply."""
        name, args = command[0].upper(), command[1:]
        if name not in ARITIES:
            return self._unknown(command)
        if name in CONTAINERS and args:
            whole = name + b"|" + args[0].upper()
            if whole not in ARITIES:
                return self._unknown_subcommand(whole, name, args)
            name, args = whole, args[1:]
        if not _fits(len(command), ARITIES[name]):
            return _wrong_count(name)
        if self.channels and self.protocol == 2 and name not in WHILE_SUBSCRIBED:
            return Failure(
                b"ERR Can't execute '%b': only (P|S)SUBSCRIBE / (P|S)UNSUBSCRIBE / PING / QUIT / "
                b"RESET are allowed in this context" % name.lower()
            )
        reply: Reply = getattr(self, METHODS[name])(*args)
        return reply

    def _unknown(self, command: Command) -> Failure:
        self.model.refused.append(command)
        args = b"".join(b"'%b' " % arg[:128] for arg in command[1:])
        return Failure(
            b"ERR unknown command '%b', with args beginning with: %b" % (command[0][:128], args)
        )

    def _unknown_subcommand(self, whole: bytes, name: bytes, args: Command) -> Failure:
        if whole not in NEWER:
            self.model.refused.append((name, *args))
        return Failure(b"ERR unknown subcommand '%b'. Try %b HELP." % (args[0][:128], name))

    # --- the connection -------------------------------------------------------------------------

    def do_hello(self, *args: bytes) -> Reply:
        if args:
            version = number_of(args[0])
            if version is None:
                return Failure(b"ERR Protocol version is not an integer or out of range")
            if version not in (2, 3):
                return Failure(b"NOPROTO unsupported protocol version")
            failed = self._hello_options(list(args[1:]))
            if isinstance(failed, Failure):
                return failed
            self.protocol = version
        return {
            b"server": b"redis",
            b"version": VERSION,
            b"proto": self.protocol,
            b"id": self.number,
            b"mode": b"standalone",
            b"role": b"master",
            b"modules": [],
        }

    def _hello_options(self, rest: list[bytes]) -> Reply:
        while rest:
            option = rest.pop(0)
            if option.upper() == b"AUTH" and len(rest) >= 2:
                reply = self.do_auth(rest.pop(0), rest.pop(0))
            elif option.upper() == b"SETNAME" and rest:
                reply = self.do_client_setname(rest.pop(0))
            else:
                return Failure(b"ERR Syntax error in HELLO option '%b'" % option)
            if isinstance(reply, Failure):
                return reply
        return OK

    def do_auth(self, name: bytes, *password: bytes) -> Reply:
        if len(password) > 1:
            return SYNTAX
        if not password:
            return Failure(
                b"ERR AUTH <password> called without any password configured for the default "
                b"user. Are you sure your configuration is correct?"
            )
        if name != b"default":
            return Failure(b"WRONGPASS invalid username-password pair or user is disabled.")
        return OK

    def do_client_setname(self, name: bytes) -> Reply:
        if any(not 0x21 <= byte <= 0x7E for byte in name):
            return BAD_NAME
        self.name = name
        return OK

    def do_client_getname(self) -> Reply:
        return self.name or None

    def do_client_id(self) -> Reply:
        return self.number

    def do_select(self, number: bytes) -> Reply:
        database = number_of(number)
        if database is None:
            return NO_NUMBER
        if not 0 <= database < DATABASES:
            return Failure(b"ERR DB index is out of range")
        self.database = database
        return OK

    def do_ping(self, *args: bytes) -> Reply:
        if len(args) > 1:
            return _wrong_count(b"PING")
        if self.channels and self.protocol == 2:
            return [b"pong", args[0] if args else b""]
        return args[0] if args else Status(b"PONG")

    # --- the server -----------------------------------------------------------------------------

    def do_time(self) -> Reply:
        micros = int((self.model.epoch + self.model.clock()) * 1_000_000)
        return [b"%d" % (micros // 1_000_000), b"%d" % (micros % 1_000_000)]

    def do_info(self, *sections: bytes) -> Reply:
        texts = {
            b"server": b"# Server\r\nredis_version:%b\r\n" % VERSION,
            b"memory": b"# Memory\r\nmaxmemory_policy:%b\r\n" % self.model.maxmemory_policy,
        }
        wanted = [section.lower() for section in sections] or list(texts)
        return Verbatim(b"\r\n".join(texts[name] for name in texts if name in wanted))

    def do_config_get(self, *patterns: bytes) -> Reply:
        known = {b"maxmemory-policy": self.model.maxmemory_policy}
        return {
            name: value
            for name, value in known.items()
            if any(matches(pattern.lower(), name) for pattern in patterns)
        }

    # --- channels -------------------------------------------------------------------------------

    def do_publish(self, channel: bytes, message: bytes) -> Reply:
        return self.model.publish(channel, message)

    def do_subscribe(self, *channels: bytes) -> Reply:
        replies = Several()
        for channel in channels:
            self.channels[channel] = None
            self.model.channels.setdefault(channel, {})[self] = None
            replies.append(Push([b"subscribe", channel, len(self.channels)]))
        return replies

    def do_unsubscribe(self, *channels: bytes) -> Reply:
        replies = Several()
        for channel in channels or list(self.channels):
            self._leave(channel)
            replies.append(Push([b"unsubscribe", channel, len(self.channels)]))
        return replies or Push([b"unsubscribe", None, 0])

    def _leave(self, channel: bytes) -> None:
        self.channels.pop(channel, None)
        listening = self.model.channels.get(channel, {})
        listening.pop(self, None)
        if not listening:
            self.model.channels.pop(channel, None)

    # --- scripts --------------------------------------------------------------------------------

    def do_script_load(self, text: bytes) -> Reply:
        script = SCRIPTS.get(text)
        if script is None:
            return self._unknown_script(text)
        digest = script.digest.encode()
        self.model.scripts[digest] = script
        return digest

    def do_script_exists(self, *digests: bytes) -> Reply:
        return [int(digest.lower() in self.model.scripts) for digest in digests]

    def do_script_flush(self, *how: bytes) -> Reply:
        if len(how) > 1 or (how and how[0].upper() not in (b"SYNC", b"ASYNC")):
            return Failure(b"ERR SCRIPT FLUSH only support SYNC|ASYNC option")
        self.model.scripts.clear()
        return OK

    def do_eval(self, text: bytes, count: bytes, *args: bytes) -> Reply:
        script = SCRIPTS.get(text)
        keys = _keys_of(count, args)
        if isinstance(keys, Failure):
            return keys
        if script is None:
            return self._unknown_script(text)
        self.model.scripts[script.digest.encode()] = script
        return self.run(script, args[:keys], args[keys:])

    def do_evalsha(self, digest: bytes, count: bytes, *args: bytes) -> Reply:
        keys = _keys_of(count, args)
        if isinstance(keys, Failure):
            return keys
        script = self.model.scripts.get(digest.lower())
        return NO_SCRIPT if script is None else self.run(script, args[:keys], args[keys:])

    def run(self, script: Script, keys: Command, argv: Command) -> Reply:
        """Run a script; what it has done before an error stays done."""
        try:
            return script.run(self._call, keys, argv)
        except _Ends as ended:
            where = f" script: {script.digest}, on @user_script:1."
            return Failure(ended.args[0] + where.encode())

    def _call(self, *command: bytes | None) -> Reply:
        words = [word for word in command if word is not None]
        if len(words) < len(command):
            raise _Ends(b"ERR Lua redis lib command arguments must be strings or integers")
        reply = self.execute(words)
        if isinstance(reply, Failure):
            raise _Ends(reply)
        return False if reply is None else reply

    def _unknown_script(self, text: bytes) -> Failure:
        self.model.refused.append((b"EVAL", text))
        return Failure(b"ERR the model does not know this script: see tests/models/redis_scripts")


def _fits(words: int, arity: int) -> bool:
    return words == arity if arity > 0 else words >= -arity


def _wrong_count(name: bytes) -> Failure:
    return Failure(b"ERR wrong number of arguments for '%b' command" % name.lower())


def _keys_of(count: bytes, args: Command) -> int | Failure:
    keys = number_of(count)
    if keys is None:
        return NO_NUMBER
    if keys > len(args):
        return Failure(b"ERR Number of keys can't be greater than number of args")
    return Failure(b"ERR Number of keys can't be negative") if keys < 0 else keys
