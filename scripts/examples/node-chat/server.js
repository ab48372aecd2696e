// A chat room on Node: the service speaks plain HTTP, the gateway holds the WebSockets
// (node server.js [PORT]).
import { createServer } from "node:http";
import { readFileSync } from "node:fs";
import { WebSocketMessageFormat } from "@fanoutio/grip";
import { ServeGrip } from "@fanoutio/serve-grip";

const port = Number(process.argv[2] ?? 9001);
const gateway = process.env.GATEWAY ?? "ws://127.0.0.1:8000"; // where browsers find it
const grip = new ServeGrip({
	grip: {
		control_uri: process.env.CONTROL ?? "http://127.0.0.1:5561/", // where it is published
		verify_key: process.env.KEY ?? "changeme", // what it signs requests with
		verify_iss: "sluice",
	},
	gripProxyRequired: true,
});

async function room(req, res) {
	const { isSigned, wsContext } = req.grip;
	if (!isSigned || wsContext === null) {
		res.writeHead(400).end("not from the gateway\n");
		return;
	}
	if (wsContext.isOpening()) {
		wsContext.accept();
		wsContext.subscribe("lobby");
		wsContext.send("welcome to lobby");
		wsContext.meta.said = "0";
	}
	while (wsContext.canRecv()) {
		let text;
		try {
			text = wsContext.recv();
		} catch { // the connection broke off
			break;
		}
		if (text === null) { // the client has closed
			wsContext.close();
			break;
		}
		wsContext.meta.said = String(Number(wsContext.meta.said) + 1);
		const message = new WebSocketMessageFormat(`${wsContext.meta.said}: ${text}`);
		await grip.getPublisher().publishFormats("lobby", message);
	}
	res.end();
}

createServer((req, res) => {
	if (req.url === "/") {
		const page = readFileSync(new URL("../django-chat/page.html", import.meta.url), "utf8");
		res.setHeader("Content-Type", "text/html; charset=utf-8");
		res.end(page.replace("GATEWAY", gateway));
		return;
	}
	grip(req, res, error => {
		if (error) {
			res.writeHead(500).end(`${error}\n`);
			return;
		}
		room(req, res).catch(e => {
			console.error(e);
			if (!res.headersSent) res.writeHead(500).end("failed\n");
		});
	});
}).listen(port, "127.0.0.1", () => console.log(`http://127.0.0.1:${port}/`));
