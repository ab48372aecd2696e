package admin

import (
	"encoding/json"
	"math"
)

// The charts show chartSeconds, a point each second while somebody looks.
const chartSeconds = 15 * 60

// point is one sample's place in the charts.
type point struct {
	at     int64 // Unix time in milliseconds
	values [seriesCount]float64
}

// The series of the charts.
const (
	seriesConnections = iota
	seriesReceived
	seriesSent
	seriesAcknowledged
	seriesHandshakes
	seriesRefused
	seriesCores
	seriesMemory
	seriesLag
	seriesBusy
	seriesCount
)

// pointOf has NaN for what is not known, which JSON has as null.
func pointOf(last, before sample) (p point) {
	p.at = last.at.UnixMilli()
	set := func(series int, value float64, ok bool) {
		if !ok {
			value = math.NaN()
		}
		p.values[series] = value
	}
	set(seriesConnections, last.readings.sum("sluice_connections"), true)
	for series, name := range map[int]string{
		seriesReceived:   "sluice_messages_received_total",
		seriesSent:       "sluice_messages_sent_total",
		seriesHandshakes: "sluice_connections_total",
		seriesRefused:    "sluice_handshakes_rejected_total",
	} {
		value, ok := rate(last, before, name)
		set(series, value, ok)
	}
	acks, ok := acknowledgedRate(last, before)
	set(seriesAcknowledged, acks, ok)
	used, ok := cores(last, before)
	set(seriesCores, used, ok)
	set(seriesMemory, float64(last.resident), last.resident > 0)
	var lag, most float64
	busyKnown := false
	for i, l := range last.loops {
		lag = max(lag, l.Lag.Seconds()*1000)
		if share, ok := busy(last, before, i); ok {
			most, busyKnown = max(most, share*100), true
		}
	}
	set(seriesLag, lag, len(last.loops) > 0)
	set(seriesBusy, most, busyKnown)
	return p
}

// MarshalJSON is [time, value, …].
func (p point) MarshalJSON() ([]byte, error) {
	list := make([]any, 1, 1+seriesCount)
	list[0] = p.at
	for _, v := range p.values {
		if math.IsNaN(v) || math.IsInf(v, 0) {
			list = append(list, nil)
		} else {
			list = append(list, math.Round(v*1000)/1000)
		}
	}
	return json.Marshal(list)
}

// history is the last chartSeconds points, in a ring.
type history struct {
	ring []point
	next int
}

func (h *history) add(p point) {
	if len(h.ring) < chartSeconds {
		h.ring = append(h.ring, p)
		return
	}
	h.ring[h.next] = p
	h.next = (h.next + 1) % len(h.ring)
}

func (h *history) points() []point {
	return append(append([]point(nil), h.ring[h.next:]...), h.ring[:h.next]...)
}
