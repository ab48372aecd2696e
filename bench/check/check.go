// Package check is a smoke test: one client does what clients do, step by step, against one
// gateway, and says of each step whether it held. It is for the moment between "the new version is
// up" and "clients may have it"; load is package load's.
package check

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/gorilla/websocket"

	"sluice/bench/wsclient"
)

// Config says what to check.
type Config struct {
	URL      string      // ws:// or wss://
	Header   http.Header // of each request, beside those of the handshake
	Insecure bool        // wss: do not check the certificate
	Timeout  time.Duration

	// App is what answers: "count" is checked with resume; "echo" by its echoes; of any other
	// application only that it accepts and ends connections.
	App string
	// Session is resumed in place of a new one, and must have counted Count before.
	Session string
	Count   uint64
}

// Step is one of the things that were checked.
type Step struct {
	Name string
	Err  error // nil when it held
	Took time.Duration
	Note string
}

// Result is what Run found.
type Result struct {
	Steps   []Step // up to the first that failed
	Session string // that was counted in; empty without one
	Count   uint64 // of Session, as the last answer told
}

// OK reports whether every step held.
func (r *Result) OK() bool { return len(r.Steps) > 0 && r.Steps[len(r.Steps)-1].Err == nil }

// WriteText writes a line for each step.
func (r *Result) WriteText(w io.Writer) error {
	var text strings.Builder
	for _, s := range r.Steps {
		state, note := "ok  ", s.Note
		if s.Err != nil {
			state, note = "FAIL", s.Err.Error()
		}
		fmt.Fprintf(&text, "%s  %-8s %8.1f ms  %s\n", state, s.Name, s.Took.Seconds()*1000, note)
	}
	if r.Session != "" {
		fmt.Fprintf(&text, "session %s count %d\n", r.Session, r.Count)
	}
	_, err := io.WriteString(w, text.String())
	return err
}

// messages is how many are counted on each connection.
const messages = 3

type step struct {
	name string
	run  func(context.Context) (note string, err error)
}

// Run checks until a step fails or ctx ends.
func Run(ctx context.Context, cfg Config) (*Result, error) {
	target, err := url.Parse(cfg.URL)
	if err != nil || target.Scheme != "ws" && target.Scheme != "wss" || target.Host == "" {
		return nil, fmt.Errorf("%q is no ws:// or wss:// URL", cfg.URL)
	}
	cfg.Timeout = cmp.Or(cfg.Timeout, 5*time.Second)
	c := &checker{cfg: cfg, target: target, result: &Result{Session: cfg.Session, Count: cfg.Count}}
	steps := []step{{"ready", c.ready}, {"connect", c.connect}}
	switch cfg.App {
	case "count":
		steps = append(steps, step{"count", c.count}, step{"close", c.close},
			step{"resume", c.connect}, step{"count", c.count})
	case "echo":
		steps = append(steps, step{"echo", c.echo})
	}
	steps = append(steps, step{"close", c.close})
	defer c.hangUp()
	for _, s := range steps {
		within, cancel := context.WithTimeout(ctx, cfg.Timeout)
		began := time.Now()
		note, err := s.run(within)
		cancel()
		took := time.Since(began)
		c.result.Steps = append(c.result.Steps, Step{Name: s.name, Err: err, Took: took, Note: note})
		if err != nil {
			break
		}
	}
	return c.result, nil
}

// checker is the one client.
type checker struct {
	cfg    Config
	target *url.URL
	result *Result
	ws     *websocket.Conn
}

func (c *checker) tls() *tls.Config {
	return &tls.Config{InsecureSkipVerify: c.cfg.Insecure, ServerName: c.cfg.Header.Get("Host")}
}

// ready asks /readyz where the clients connect.
func (c *checker) ready(ctx context.Context) (string, error) {
	u := *c.target
	u.Scheme = map[string]string{"ws": "http", "wss": "https"}[u.Scheme]
	u.Path, u.RawPath, u.RawQuery = "/readyz", "", ""
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return "", err
	}
	r.Header = c.cfg.Header.Clone()
	r.Host = c.cfg.Header.Get("Host")
	client := http.Client{Transport: &http.Transport{TLSClientConfig: c.tls(), DisableKeepAlives: true}}
	resp, err := client.Do(r)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	body, _ := io.ReadAll(io.LimitReader(resp.Body, 200))
	if resp.StatusCode != http.StatusOK {
		return "", fmt.Errorf("%s answers %s: %s", u.Path, resp.Status, strings.TrimSpace(string(body)))
	}
	return "", nil
}

// connect opens the connection, in the session if there is one, and takes the welcome frame.
func (c *checker) connect(ctx context.Context) (string, error) {
	u := *c.target
	if c.result.Session != "" {
		q := u.Query()
		q.Set("session_id", c.result.Session)
		u.RawQuery = q.Encode()
	}
	dialer := websocket.Dialer{TLSClientConfig: c.tls(), HandshakeTimeout: c.cfg.Timeout}
	ws, resp, err := dialer.DialContext(ctx, u.String(), c.cfg.Header) //nolint:bodyclose // a copy, read whole
	if err != nil {
		if resp != nil {
			body, _ := io.ReadAll(io.LimitReader(resp.Body, 200))
			text := strings.TrimSpace(string(body))
			err = fmt.Errorf("the handshake was answered %s: %s", resp.Status, text)
		}
		return "", err
	}
	c.ws = ws
	c.extend(ctx)
	if c.cfg.App != "count" {
		return "101", nil
	}
	n, err := c.next(wsclient.Welcome)
	if err != nil {
		return "", fmt.Errorf("no welcome: %w", err)
	}
	id := string(n.ID)
	resuming := c.result.Session != ""
	switch {
	case resuming && id != c.result.Session:
		return "", fmt.Errorf("got session %s, want %s", id, c.result.Session)
	case n.Total != c.result.Count:
		return "", fmt.Errorf("the session's count is %d, want %d", n.Total, c.result.Count)
	case n.Resumed != (resuming && c.result.Count > 0):
		return "", fmt.Errorf("the welcome says resumed: %v", n.Resumed)
	}
	c.result.Session = id
	return fmt.Sprintf("at %d", n.Total), nil
}

// extend gives the step what is left of its time.
func (c *checker) extend(ctx context.Context) {
	deadline, _ := ctx.Deadline()
	_ = c.ws.SetReadDeadline(deadline)
	_ = c.ws.SetWriteDeadline(deadline)
}

// next reads messages until one is of this kind; heartbeats may come at any time.
func (c *checker) next(want wsclient.Kind) (wsclient.Notice, error) {
	for {
		_, text, err := c.ws.ReadMessage()
		if err != nil {
			return wsclient.Notice{}, err
		}
		n := wsclient.ParseNotice(text)
		switch n.Kind {
		case want:
			return n, nil
		case wsclient.Beat:
		default:
			return n, fmt.Errorf("got %.100q", text)
		}
	}
}

// count sends messages, and wants each acknowledged as the next one of the session.
func (c *checker) count(ctx context.Context) (string, error) {
	c.extend(ctx)
	for range messages {
		if err := c.ws.WriteMessage(websocket.TextMessage, []byte("check")); err != nil {
			return "", err
		}
		n, err := c.next(wsclient.Counted)
		if err != nil {
			return "", fmt.Errorf("message %d was not acknowledged: %w", c.result.Count+1, err)
		}
		if n.Total != c.result.Count+1 {
			return "", fmt.Errorf("counted as %d, want %d", n.Total, c.result.Count+1)
		}
		c.result.Count = n.Total
	}
	return fmt.Sprintf("up to %d", c.result.Count), nil
}

// echo wants back what it sends.
func (c *checker) echo(ctx context.Context) (string, error) {
	c.extend(ctx)
	for i := range messages {
		sent := fmt.Sprintf("check %d", i)
		if err := c.ws.WriteMessage(websocket.TextMessage, []byte(sent)); err != nil {
			return "", err
		}
		for {
			_, got, err := c.ws.ReadMessage()
			if err != nil {
				return "", fmt.Errorf("no echo: %w", err)
			}
			if string(got) == sent {
				break
			}
			if wsclient.ParseNotice(got).Kind != wsclient.Beat {
				return "", fmt.Errorf("got %.100q, want %q", got, sent)
			}
		}
	}
	return fmt.Sprintf("%d messages", messages), nil
}

// close says goodbye, and wants 1000 in return.
func (c *checker) close(ctx context.Context) (string, error) {
	c.extend(ctx)
	defer c.hangUp()
	body := websocket.FormatCloseMessage(websocket.CloseNormalClosure, "")
	if err := c.ws.WriteMessage(websocket.CloseMessage, body); err != nil {
		return "", err
	}
	for {
		_, _, err := c.ws.ReadMessage()
		var closed *websocket.CloseError
		switch {
		case err == nil: // the bye, or a heartbeat
		case errors.As(err, &closed) && closed.Code == websocket.CloseNormalClosure:
			return "1000", nil
		default:
			return "", fmt.Errorf("Close was not answered with 1000: %w", err)
		}
	}
}

func (c *checker) hangUp() {
	if c.ws != nil {
		c.ws.Close()
	}
}
