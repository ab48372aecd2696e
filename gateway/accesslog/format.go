package accesslog

import (
	"strconv"
	"unicode/utf8"

	"sluice/gateway"
)

// appendJSON appends one line:
//
//	{"time":"2026-11-25T20:15:02.123Z","client":"192.0.2.1:4711","user":"alice",
//	 "subject":"CN=alice","session":"…","path":"/ws/chat/","request_id":"…","code":1000,
//	 "messages_in":3,"messages_out":4,"bytes_in":312,"bytes_out":655,"seconds":12.345}
//
// The query is not in it: it may hold a token.
func appendJSON(b []byte, s *gateway.Summary) []byte {
	b = append(b, `{"time":"`...)
	b = s.Ended.UTC().AppendFormat(b, "2006-01-02T15:04:05.000Z07:00")
	b = append(b, `","client":"`...)
	b = s.Client.AppendTo(b)
	b = append(b, '"')
	for _, f := range []struct{ name, value string }{
		{"user", s.User}, {"subject", s.Subject}, {"session", s.Session}, {"path", s.Path},
		{"request_id", s.RequestID},
	} {
		if f.value != "" {
			b = append(append(append(b, `,"`...), f.name...), `":`...)
			b = appendString(b, f.value)
		}
	}
	b = append(b, `,"code":`...)
	b = strconv.AppendUint(b, uint64(s.Code), 10)
	for _, f := range []struct {
		name  string
		value uint64
	}{
		{"messages_in", s.MessagesReceived}, {"messages_out", s.MessagesSent},
		{"bytes_in", s.BytesReceived}, {"bytes_out", s.BytesSent},
	} {
		b = append(append(append(b, `,"`...), f.name...), `":`...)
		b = strconv.AppendUint(b, f.value, 10)
	}
	b = append(b, `,"seconds":`...)
	b = strconv.AppendFloat(b, s.Duration.Seconds(), 'f', 3, 64)
	return append(b, "}\n"...)
}

// appendString appends a JSON string.
func appendString(b []byte, s string) []byte {
	b = append(b, '"')
	for _, r := range s {
		switch {
		case r == '"' || r == '\\':
			b = append(b, '\\', byte(r))
		case r < ' ' || r == 0x7f || r == utf8.RuneError || r == 0x2028 || r == 0x2029:
			b = append(b, `\u`...)
			for shift := 12; shift >= 0; shift -= 4 {
				b = append(b, "0123456789abcdef"[r>>shift&0xf])
			}
		default:
			b = utf8.AppendRune(b, r)
		}
	}
	return append(b, '"')
}

// appendCommon appends one line of the Common Log Format:
//
//	192.0.2.1 - alice [25/Nov/2026:20:15:02 +0000] "GET /ws/chat/ HTTP/1.1" 1000 655
func appendCommon(b []byte, s *gateway.Summary) []byte {
	b = s.Client.Addr().AppendTo(b)
	b = append(b, " - "...)
	if s.User == "" {
		b = append(b, '-')
	}
	b = appendPlain(b, s.User)
	b = append(b, " ["...)
	b = s.Ended.Add(-s.Duration).UTC().AppendFormat(b, "02/Jan/2006:15:04:05 -0700")
	b = append(b, `] "GET `...)
	b = appendPlain(b, s.Path)
	b = append(b, ` HTTP/1.1" `...)
	b = strconv.AppendUint(b, uint64(s.Code), 10)
	b = append(b, ' ')
	b = strconv.AppendUint(b, s.BytesSent, 10)
	return append(b, '\n')
}

// appendPlain appends s with everything escaped that would be read as the end of a field or a line,
// as Apache does.
func appendPlain(b []byte, s string) []byte {
	for i := range len(s) {
		if c := s[i]; c <= ' ' || c == '"' || c == '\\' || c >= 0x7f {
			b = append(b, '\\', 'x', "0123456789abcdef"[c>>4], "0123456789abcdef"[c&0xf])
		} else {
			b = append(b, c)
		}
	}
	return b
}
