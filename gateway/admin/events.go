package admin

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"time"
)

const (
	// interval is the time between two events.
	interval = time.Second
	// MaxViewers is how many pages may follow the events at once; more are told 503. Each holds a
	// connection.
	MaxViewers = 16
	// viewerTimeout is how long a viewer may take for one event before it is dropped.
	viewerTimeout = 10 * time.Second
)

// feed sends each event, made once, to all viewers. Its goroutine runs while there are any.
type feed struct {
	event func() []byte // makes the next event

	mu      sync.Mutex
	viewers map[chan []byte]bool
	running bool
}

// join adds a viewer, or returns nil when there are too many. Each event replaces the last one in
// the channel, if the viewer was too slow to take it.
func (f *feed) join() chan []byte {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.viewers) >= MaxViewers {
		return nil
	}
	if f.viewers == nil {
		f.viewers = make(map[chan []byte]bool)
	}
	viewer := make(chan []byte, 1)
	f.viewers[viewer] = true
	viewers.Add(1)
	if !f.running {
		f.running = true
		go f.run()
	}
	return viewer
}

func (f *feed) leave(viewer chan []byte) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.viewers, viewer)
	viewers.Add(-1)
}

func (f *feed) run() {
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for {
		event := f.event()
		f.mu.Lock()
		if len(f.viewers) == 0 {
			f.running = false
			f.mu.Unlock()
			return
		}
		for viewer := range f.viewers {
			select {
			case <-viewer: // what it has not taken is out of date
			default:
			}
			viewer <- event
		}
		f.mu.Unlock()
		<-tick.C
	}
}

// events follows the page's numbers, as server-sent events: "history" once, and a "sample" a
// second.
func (a *Admin) events(w http.ResponseWriter, r *http.Request) {
	viewer := a.feed.join()
	if viewer == nil {
		w.Header().Set("Retry-After", "30")
		http.Error(w, fmt.Sprintf("%d pages follow already, which is the most", MaxViewers),
			http.StatusServiceUnavailable)
		return
	}
	defer a.feed.leave(viewer)
	h := w.Header()
	h.Set("Content-Type", "text/event-stream")
	h.Set("X-Accel-Buffering", "no") // nginx
	control := http.NewResponseController(w)
	// The server's own deadlines are for requests that end. Its read deadline would end this one
	// too: net/http reads ahead to see whether the client is gone.
	_ = control.SetReadDeadline(time.Time{})
	send := func(event []byte) bool {
		_ = control.SetWriteDeadline(time.Now().Add(viewerTimeout))
		_, err := w.Write(event)
		return err == nil && control.Flush() == nil
	}
	points, err := json.Marshal(a.sampler.points())
	if err != nil || !send(serverSent("history", points)) {
		return
	}
	for {
		select {
		case event := <-viewer:
			if !send(event) {
				return
			}
		case <-r.Context().Done():
			return
		}
	}
}

// serverSent frames one event; data is JSON, and so has no line break.
func serverSent(name string, data []byte) []byte {
	return fmt.Appendf(nil, "event: %s\ndata: %s\n\n", name, data)
}

// sampleEvent is the next event for all viewers.
func (a *Admin) sampleEvent() []byte {
	last, before := a.sampler.look(time.Now(), interval/2)
	v := a.view(last, before)
	var parts [3]string
	for i, name := range []string{"status", "sections", "log"} {
		var html bytes.Buffer
		if err := pageTemplate.ExecuteTemplate(&html, name, v); err != nil {
			a.cfg.Logger.Error("operators' page", "error", err)
			return nil
		}
		parts[i] = html.String()
	}
	title := strings.Join([]string{whole(last.readings.sum("sluice_connections")), "Sluice"}, " · ")
	data, err := json.Marshal(struct {
		Title    string `json:"title"`
		Status   string `json:"status"`
		Sections string `json:"sections"`
		Log      string `json:"log"`
		Point    point  `json:"point"`
	}{title, parts[0], parts[1], parts[2], pointOf(last, before)})
	if err != nil {
		a.cfg.Logger.Error("operators' page", "error", err)
		return nil
	}
	return serverSent("sample", data)
}
