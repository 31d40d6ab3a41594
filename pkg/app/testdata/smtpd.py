"""A mail server for tests: smtpd.py PORT CERT KEY USER PASSWORD. It prints what it takes, one JSON line per mail.

CERT "": without TLS and AUTH. Recipients decide: busy@… 451 the first time, nobody@… 550, hangup@… the connection is cut.
"""

import asyncio, json, signal, ssl, sys
from aiosmtpd.smtp import SMTP, AuthResult, Envelope

port, cert, key, user, password = int(sys.argv[1]), *sys.argv[2:6]
seen = {}


class Handler:
    async def handle_RCPT(self, server, session, envelope, address, options):
        seen[address] = seen.get(address, 0) + 1
        if address.startswith("busy@") and seen[address] == 1:
            return "451 4.7.1 greylisted, come back later"
        if address.startswith("nobody@"):
            return "550 5.1.1 nobody of that name here"
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server, session, envelope):
        print(json.dumps({
            "from": envelope.mail_from, "to": envelope.rcpt_tos, "data": envelope.content.decode(),
            "tls": session.ssl is not None, "user": session.auth_data or "",
        }), flush=True)
        if any(a.startswith("hangup@") for a in envelope.rcpt_tos) and seen[envelope.rcpt_tos[0]] == 1:
            server.transport.abort()  # taken, and nobody hears of it
        return "250 OK"


def authenticate(server, session, envelope, mechanism, data):
    right = data.login == user.encode() and data.password == password.encode()
    return AuthResult(success=right, auth_data=data.login.decode())


async def main():
    options = {"enable_SMTPUTF8": True}
    if cert:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(cert, key)
        options.update(tls_context=context, require_starttls=True, auth_required=True, authenticator=authenticate)
    loop = asyncio.get_running_loop()
    await loop.create_server(lambda: SMTP(Handler(), **options), "127.0.0.1", port)
    print("ready", flush=True)
    stop = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    await stop.wait()


asyncio.run(main())
