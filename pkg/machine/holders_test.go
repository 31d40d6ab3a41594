package machine

import "testing"

func TestKernelAddresses(t *testing.T) {
	for in, want := range map[string]string{
		"0100007F:1F90": "127.0.0.1:8080", "00000000:0050": "0.0.0.0:80", "00000000000000000000000001000000:0050": "[::1]:80",
		"0000000000000000FFFF00000100007F:0050": "[::ffff:127.0.0.1]:80", "B80D0120000000000000000001000000:0001": "[2001:db8::1]:1",
	} {
		if got, ok := kernelAddress(in); !ok || got.String() != want {
			t.Errorf("%s: got %s, want %s", in, got, want)
		}
	}
	for _, in := range []string{"", ":", "0100007F", "xx:0050", "01:0050", "0100007F:zz"} {
		if got, ok := kernelAddress(in); ok {
			t.Errorf("%q: got %s", in, got)
		}
	}
}
