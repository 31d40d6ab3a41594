package protocol

import "testing"

func TestPoolsTravel(t *testing.T) {
	for _, want := range []string{"", "web=4+4", "web=4+4,redis=1+0,jobs=2+1"} {
		pools, err := ParsePools(want)
		if err != nil || pools.String() != want {
			t.Errorf("%q became %q, %v", want, pools, err)
		}
	}
	for _, bad := range []string{"web", "web=4", "=4+4", "web=-1+1", "web=4+4,", "web=99999999+1"} {
		if pools, err := ParsePools(bad); err == nil {
			t.Errorf("%q became %q", bad, pools)
		}
	}
}
