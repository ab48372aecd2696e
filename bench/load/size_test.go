package load

import (
	"testing"
	"unsafe"
)

func TestConnSize(t *testing.T) {
	if got, want := unsafe.Sizeof(Conn{}), uintptr(112); got > want {
		t.Errorf("a Conn takes %d bytes, want at most %d", got, want)
	}
}
