package load

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"sync"
	"time"
)

// publisher makes the traffic of the scenario fanout: it publishes at fixed times, to one topic
// after the other, by POST with the message as the body and the topic in ?topic=.
type publisher struct {
	spec   *Spec
	client http.Client
	filler []byte
	now    func() time.Duration // of the plan
	began  time.Duration
	units  int64

	mu        sync.Mutex
	published int64
	reasons   map[string]int64 // of those that were not
	lag       hist
	over      time.Duration
}

// publishersAtOnce bounds the requests in flight. Those of one topic follow each other, or they
// would come out of order.
const publishersAtOnce = 16

func newPublisher(s *Spec, now func() time.Duration, began time.Duration, units int64) *publisher {
	p := &publisher{spec: s, now: now, began: began, units: units, reasons: map[string]int64{}}
	p.filler = payloadOf(s)
	p.client = http.Client{Timeout: s.Timeout, Transport: &http.Transport{MaxIdleConnsPerHost: publishersAtOnce}}
	return p
}

// run publishes everything, or until ctx ends.
func (p *publisher) run(ctx context.Context) {
	defer p.client.CloseIdleConnections()
	lanes := min(publishersAtOnce, p.spec.Topics)
	var all sync.WaitGroup
	for lane := range lanes {
		all.Go(func() { p.lane(ctx, lane, lanes) })
	}
	all.Wait()
}

// lane publishes to every topic whose index is lane, modulo lanes.
func (p *publisher) lane(ctx context.Context, lane, lanes int) {
	wait := time.NewTimer(0)
	defer wait.Stop()
	var body []byte
	for i := range p.units {
		topic := int(i % int64(p.spec.Topics))
		if topic%lanes != lane {
			continue
		}
		due := p.began + time.Duration(float64(i)/p.spec.Rate*float64(time.Second))
		wait.Reset(due - p.now())
		select {
		case <-ctx.Done():
			return
		case <-wait.C:
		}
		late := p.now() - due
		body = appendPublication(body[:0], uint64(i/int64(p.spec.Topics))+1, due, p.filler)
		why := p.publish(ctx, topicName(topic), body)
		p.mu.Lock()
		p.lag.record(late)
		p.over = p.now()
		if why == "" {
			p.published++
		} else {
			count(p.reasons, why, "other reasons")
		}
		p.mu.Unlock()
	}
}

// publish makes one publication and returns why it failed. 503 says that it was not taken, as by a
// server that is being replaced: it is tried again, Spec.Retries times.
func (p *publisher) publish(ctx context.Context, topic string, body []byte) (why string) {
	const first = 50 * time.Millisecond // doubled each time
	for i := 0; ; i++ {
		why = p.attempt(ctx, topic, body)
		if why != unavailable || i >= p.spec.Retries {
			return why
		}
		select {
		case <-ctx.Done():
			return why
		case <-time.After(first << min(i, 5)):
		}
	}
}

var unavailable = "http " + strconv.Itoa(http.StatusServiceUnavailable)

func (p *publisher) attempt(ctx context.Context, topic string, body []byte) (why string) {
	u := p.spec.Publish + "?topic=" + url.QueryEscape(topic)
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, u, bytes.NewReader(body))
	if err != nil {
		return err.Error()
	}
	if p.spec.PublishKey != "" {
		r.Header.Set("Authorization", "Bearer "+p.spec.PublishKey)
	}
	res, err := p.client.Do(r)
	if err != nil {
		return "no answer"
	}
	defer res.Body.Close()
	_, _ = io.Copy(io.Discard, io.LimitReader(res.Body, 64<<10))
	if res.StatusCode/100 != 2 {
		return "http " + strconv.Itoa(res.StatusCode)
	}
	return ""
}

// checkPublish judges what is for the scenario fanout alone.
func (s *Spec) checkPublish() error {
	if s.Scenario != Fanout {
		if s.Publish != "" || s.Topics != 1 {
			return fmt.Errorf("scenario %s: topics, and where to publish, are for the scenario fanout", s.Scenario)
		}
		return nil
	}
	u, err := url.Parse(s.Publish)
	switch {
	case err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.RawQuery != "":
		return fmt.Errorf("publish %q: want an http:// URL without a query, where POST with ?topic= publishes", s.Publish)
	case s.Rate == 0:
		return fmt.Errorf("scenario fanout: set a rate, of publications a second")
	case s.Topics < 1 || s.Topics*len(s.Targets) > 1<<16:
		return fmt.Errorf("topics %d: must be 1 to 65,536, divided by the targets", s.Topics)
	case s.Payload < publicationHead:
		return fmt.Errorf("payload %d: a publication has %d bytes at least", s.Payload, publicationHead)
	case s.Reconnect || s.NoVerify:
		return fmt.Errorf("scenario fanout: every client is checked, and none comes back")
	}
	return nil
}

// fanout publishes for d and waits until all subscribers have all that was published.
func (r *run) fanout(ctx context.Context, d time.Duration) error {
	r.at = r.soon()
	units := max(int64(d.Seconds()*r.spec.Rate+0.5), 1)
	r.enter("traffic", d)
	p := newPublisher(&r.spec, r.crew.now, r.at, units)
	publishing, stop := context.WithCancel(ctx)
	defer stop()
	over := make(chan struct{})
	go func() { p.run(publishing); close(over) }()
	r.crew.tell(func(int, *member) command {
		return command{Do: "traffic", At: r.at, Duration: d, Units: units}
	})
	err := r.await(ctx, "drained")
	stop()
	<-over
	r.result.TrafficSeconds = d.Seconds()
	if err != nil {
		r.result.TrafficSeconds = min(r.soFar(), d.Seconds())
	}
	r.result.Published, r.result.PublishErrors = p.published, p.reasons
	r.crew.latencies.lag.add(&p.lag)
	r.result.SendSeconds = max(p.over-r.at, 0).Seconds()
	return err
}
