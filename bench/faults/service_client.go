package faults

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gorilla/websocket"
)

const (
	serviceClients = 40
	servicePause   = 20 * time.Millisecond // between messages of one client
	publishPause   = 10 * time.Millisecond // between publications to one topic
)

// serviceCrowd is clients that number what they say to a service, and publishers that number what
// they publish. A client whose connection ends comes back at another gateway.
type serviceCrowd struct {
	quiet, over atomic.Bool // say nothing more; be gone
	talkers     sync.WaitGroup
	publishers  sync.WaitGroup
	client      http.Client
	control     func(topic int) string
}

func startServiceCrowd(b *serviceBooks, gateways func() []string,
	control func(int) string) *serviceCrowd {
	c := &serviceCrowd{client: http.Client{Timeout: patience}, control: control}
	for i := range serviceClients {
		c.talkers.Go(func() { c.talk(b, i, gateways) })
	}
	for topic := range 2 {
		c.publishers.Go(func() {
			for !c.quiet.Load() {
				c.publish(b, topic)
				time.Sleep(publishPause)
			}
		})
	}
	return c
}

// talk is a client: one connection after the other.
func (c *serviceCrowd) talk(b *serviceBooks, number int, gateways func() []string) {
	dialer := websocket.Dialer{HandshakeTimeout: patience, NetDialContext: serviceDialer.DialContext}
	for life := 0; !c.over.Load(); life++ {
		if life > 0 {
			time.Sleep(rand.N(100 * time.Millisecond))
		}
		all := gateways()
		if len(all) == 0 || c.quiet.Load() && life > 0 {
			continue
		}
		gateway := all[(number+life)%len(all)]
		url := "ws://" + gateway + "/?topic=room-0&topic=room-1"
		ws, res, err := dialer.Dial(url, nil) //nolint:bodyclose // it has none after 101
		if err != nil {
			if res != nil {
				res.Body.Close()
			}
			continue
		}
		c.live(b, ws, fmt.Sprintf("%d.%d", number, life), gateway)
	}
}

// live is one connection: it says messages until it is to be quiet, and reads until the end.
func (c *serviceCrowd) live(b *serviceBooks, ws *websocket.Conn, name, gateway string) {
	l := b.born(name, gateway)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for {
			_, text, err := ws.ReadMessage()
			if err != nil {
				b.died(l)
				return
			}
			b.came(l, string(text))
		}
	}()
	closing := false
	for {
		select {
		case <-ended:
			_ = ws.Close()
			return
		case <-time.After(rand.N(2 * servicePause)):
		}
		var err error
		switch {
		case c.over.Load() && !closing:
			closing = true
			err = ws.WriteControl(websocket.CloseMessage,
				websocket.FormatCloseMessage(websocket.CloseNormalClosure, ""), time.Now().Add(patience))
			_ = ws.SetReadDeadline(time.Now().Add(patience))
		case !c.quiet.Load():
			err = ws.WriteMessage(websocket.TextMessage, b.saying(name, l))
		}
		if err != nil { // what the other side has said before it left is read to the end
			_ = ws.SetReadDeadline(time.Now().Add(time.Second))
			<-ended
		}
	}
}

// publish sends the next publication to a topic at its gateway, and reports whether it was taken.
func (c *serviceCrowd) publish(b *serviceBooks, topic int) bool {
	address := c.control(topic)
	if address == "" {
		return false
	}
	n := b.publishing(topic)
	res, err := c.client.Post(fmt.Sprintf("http://%s/publish?topic=room-%d", address, topic), "",
		strings.NewReader(fmt.Sprintf("publication %d %d", topic, n)))
	if err != nil {
		return false
	}
	_, _ = io.Copy(io.Discard, res.Body)
	res.Body.Close()
	if res.StatusCode == http.StatusOK {
		b.took(topic, n)
	}
	return res.StatusCode == http.StatusOK
}

// finish waits until all has arrived that was said, with a last publication to each topic, then
// closes all connections and waits until the service was told.
func (c *serviceCrowd) finish(b *serviceBooks) error {
	c.quiet.Store(true)
	c.publishers.Wait()
	var errs []error
	for topic := range 2 {
		errs = append(errs, eventually("a last publication is taken", patience, func() bool {
			return c.publish(b, topic)
		}))
	}
	last := time.Now()
	errs = append(errs, eventually("all that was said and published has arrived", patience,
		func() bool {
			if time.Since(last) > time.Second { // some have come back behind the last publication
				last = time.Now()
				c.publish(b, 0)
				c.publish(b, 1)
			}
			return b.arrived()
		}))
	b.lost()
	c.over.Store(true)
	c.talkers.Wait()
	errs = append(errs, eventually("the service knows of all ends", patience, func() bool {
		return b.untold() == 0
	}))
	return errors.Join(errs...)
}

func (c *serviceCrowd) stop() {
	c.quiet.Store(true)
	c.over.Store(true)
	c.publishers.Wait()
	c.talkers.Wait()
	c.client.CloseIdleConnections()
}
