cd /work/wt-app && (make run ADDR=127.0.0.1:18080 WORKERS=2 > /tmp/meas/run.log 2>&1 & echo $! > /tmp/meas/runpid); sleep 9; B=http://127.0.0.1:18080
c() { echo "## $*"; curl -s -m 20 -w '\n[%{http_code} %{content_type}]\n' "$@" | head -c 700; }
c -F file=@pkg/app/testdata/go-turns-two-280x360.jpeg "$B/images?width=120"
ID=$(curl -s --data-binary @pkg/app/testdata/video-001.png $B/images | sed 's/.*"id":"\([^"]*\)".*/\1/'); sleep 1
c $B/tasks/$ID; curl -s -o /tmp/meas/o.jpg -w '%{http_code} %{content_type} %{size_download}\n' $B/tasks/$ID/result
c -X DELETE $B/tasks/$ID
c --data-binary @README.md $B/images; c -F file=@README.md $B/images; c -F photo=@README.md $B/images; c -X POST $B/images; c -F file= $B/images
head -c 11000000 /dev/zero > /tmp/meas/huge; c --data-binary @/tmp/meas/huge $B/images; c -H Expect: --data-binary @/tmp/meas/huge $B/images; c -F file=@/tmp/meas/huge $B/images
c --data-binary @pkg/app/testdata/video-001.gif "$B/images?width=abc"; c --data-binary @pkg/app/testdata/video-001.gif "$B/images?width=9999"; c --data-binary @pkg/app/testdata/video-001.gif "$B/images?widht=10"
c $B/images; c $B/tasks; c $B/tasks/; c $B/tasks/xyz; c $B/tasks/default.0.abc; c -X POST $B/tasks/default.0.abc; c $B/nothing; c -X DELETE $B/tasks/default.0.abc
head -c 500 pkg/app/testdata/video-001.jpeg > /tmp/meas/cut.jpg;  ID=$(curl -s --data-binary @/tmp/meas/cut.jpg $B/images | sed 's/.*"id":"\([^"]*\)".*/\1/'); sleep .5; c $B/tasks/$ID; c $B/tasks/$ID/result; c -d '{"a":1}' $B/images; c -H 'Content-Type: multipart/form-data' -d 'x' $B/images
c -H 'Accept: text/html' $B/tasks/$ID
