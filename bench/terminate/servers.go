package terminate

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"sluice/bench/launch"
)

const (
	startWithin = time.Minute
	stopWithin  = 10 * time.Second
	heartbeat   = "5m" // longer than a measurement: no heartbeat's CPU is in it
)

// target is a server under test: one process, or a proxy and what is behind it.
type target struct {
	url       string
	processes []*launch.Process
}

func (t *target) pids() (pids []int) {
	for _, p := range t.processes {
		pids = append(pids, p.PID())
	}
	return pids
}

// stop ends the proxy first.
func (t *target) stop() {
	for i := range t.processes {
		_ = t.processes[len(t.processes)-1-i].Stop(stopWithin)
	}
}

func (t *target) outputNote() (note string) {
	for _, p := range t.processes {
		note += p.OutputNote()
	}
	return note
}

func (t *target) run(cmd *exec.Cmd) (*launch.Process, error) {
	cmd.Env = launch.FairEnvironment()
	p, err := launch.Start(cmd)
	if err == nil {
		t.processes = append(t.processes, p)
	}
	return p, err
}

// start runs the named server and returns when it answers. What runs is in the target even when it
// fails.
func (o Options) start(ctx context.Context, dir, name string) (*target, error) {
	t := &target{}
	ports, err := launch.FreePorts(2)
	if err != nil {
		return t, err
	}
	plain, secure := ports[0], ports[1]
	pair := []string{"--tls-cert", filepath.Join(dir, "crt.pem"),
		"--tls-key", filepath.Join(dir, "key.pem")}
	t.url = "wss://" + secure + "/ws/chat/"
	if name == Gorilla {
		p, err := t.run(exec.Command(o.Self, append([]string{"baseline", Gorilla, "--listen", secure,
			"--app", "echo", "--heartbeat", heartbeat}, pair...)...))
		if err != nil {
			return t, err
		}
		return t, awaitTLS(ctx, p, secure)
	}
	gateway := exec.Command(o.Sluice, "serve", "--listen", plain, "--admin", "off", "--app", "echo",
		"--heartbeat", heartbeat, "--log-level", "warn", "--drain-spread", "0")
	if name == Compact || name == Std {
		gateway.Args = append(gateway.Args, "--tls-listen", secure, "--tls-records", name)
		gateway.Args = append(gateway.Args, pair...)
	}
	if name == Nginx || name == HAProxy { // all its clients have the proxy's address
		gateway.Args = append(gateway.Args, "--trusted-proxies", "127.0.0.1/32")
	}
	last, err := t.run(gateway)
	if err != nil {
		return t, err
	}
	if err := last.AwaitHealth(ctx, plain, startWithin); err != nil {
		return t, err
	}
	switch name {
	case Plain:
		t.url = "ws://" + plain + "/ws/chat/"
		return t, nil
	case Nginx:
		last, err = t.proxy(dir, "nginx.conf", fmt.Sprintf(nginxConfig, dir, secure, plain),
			"nginx", "-p", dir, "-e", "stderr", "-c")
	case HAProxy:
		last, err = t.proxy(dir, "haproxy.cfg", fmt.Sprintf(haproxyConfig, secure, dir, plain),
			"haproxy", "-db", "-f")
	}
	if err != nil {
		return t, err
	}
	return t, awaitTLS(ctx, last, secure)
}

// proxy starts args with the configuration's name behind them.
func (t *target) proxy(dir, name, config string, args ...string) (*launch.Process, error) {
	path := filepath.Join(dir, name)
	if err := os.WriteFile(path, []byte(config), 0o600); err != nil {
		return nil, err
	}
	return t.run(exec.Command(args[0], append(args[1:], path)...))
}

// nginxConfig is for a directory, the address to listen on and the gateway's. The buffers are as
// small as nginx's documentation advises for small messages, or each would hold 16 KiB.
const nginxConfig = `
daemon off;
worker_processes 2;
worker_rlimit_nofile 20000;
pid nginx.pid;
error_log stderr error;
events { worker_connections 8192; }
http {
	access_log off;
	client_body_temp_path body;
	proxy_temp_path proxy;
	fastcgi_temp_path fastcgi;
	uwsgi_temp_path uwsgi;
	scgi_temp_path scgi;
	upstream gateway { server %[3]s; }
	server {
		listen %[2]s ssl backlog=4096;
		ssl_certificate %[1]s/crt.pem;
		ssl_certificate_key %[1]s/key.pem;
		ssl_protocols TLSv1.3;
		ssl_conf_command Ciphersuites TLS_AES_128_GCM_SHA256;
		ssl_buffer_size 4k;
		location / {
			proxy_pass http://gateway;
			proxy_http_version 1.1;
			proxy_set_header Upgrade $http_upgrade;
			proxy_set_header Connection upgrade;
			proxy_set_header Host $host;
			proxy_set_header X-Forwarded-For $remote_addr;
			proxy_buffer_size 4k;
			proxy_read_timeout 1h;
			proxy_send_timeout 1h;
		}
	}
}
`

// haproxyConfig is for the address to listen on, a directory and the gateway's address. HAProxy's
// buffers are shared and held only while there is something in them.
const haproxyConfig = `
global
	maxconn 9000
	nbthread 2
	ssl-default-bind-options ssl-min-ver TLSv1.3
	ssl-default-bind-ciphersuites TLS_AES_128_GCM_SHA256
defaults
	mode http
	option forwardfor
	timeout connect 10s
	timeout client 1h
	timeout server 1h
	timeout tunnel 1h
frontend secure
	bind %[1]s ssl crt %[2]s/both.pem alpn http/1.1 backlog 4096
	default_backend gateway
backend gateway
	server one %[3]s
`

// awaitTLS waits until p accepts TLS on addr.
func awaitTLS(ctx context.Context, p *launch.Process, addr string) error {
	ctx, cancel := context.WithTimeout(ctx, startWithin)
	defer cancel()
	d := tls.Dialer{NetDialer: &net.Dialer{Timeout: 5 * time.Second},
		Config: &tls.Config{InsecureSkipVerify: true}} // our own, made a moment ago
	for {
		c, err := d.DialContext(ctx, "tcp", addr)
		if err == nil {
			return c.Close()
		}
		select {
		case <-p.Ended():
			return fmt.Errorf("it ended: %v%s", p.Wait(), p.OutputNote())
		case <-ctx.Done():
			return fmt.Errorf("it did not accept TLS on %s: %w%s", addr, err, p.OutputNote())
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// writeCertificate makes a P-256 certificate for 127.0.0.1 that signs itself: crt.pem, key.pem, and
// both.pem of both.
func writeCertificate(dir string) error {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore:   time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour)}
	signed, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	if err != nil {
		return err
	}
	der, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		return err
	}
	crt := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: signed})
	key := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
	for name, b := range map[string][]byte{"crt.pem": crt, "key.pem": key,
		"both.pem": append(append([]byte(nil), crt...), key...)} {
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
			return err
		}
	}
	return nil
}
