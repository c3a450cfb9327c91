#!/usr/bin/env bash
# A real Apache Kafka 4.1.1 on this machine, one node or three in KRaft mode, on the loopback.
#
#   ./scripts/kafka.sh start|stop|kill|status [--port N] [--dir D] [--brokers 3] [--node K]
#
#   --port N     the broker's port, default 9092; the controller takes the next one, further nodes the next pairs
#   --dir D      data, logs and the processes' ids, default ~/.cache/pelton/kafka-data/N
#   --brokers 3  a cluster: topics with three copies, writes acknowledged by two
#   --node K     start, stop or kill (SIGKILL) node K of the cluster alone
#
# The jars come from Maven Central, once, into ${PELTON_CACHE:-~/.cache/pelton}. Without Java, a running Docker engine is
# used instead; without either, Java and Maven are installed where apt-get can. `start` returns when the broker answers and
# does nothing when it already runs.
set -euo pipefail

version=4.1.1
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cache=${PELTON_CACHE:-$HOME/.cache/pelton}
die() { echo "kafka.sh: $*" >&2; exit 1; }
usage() { sed -n '4,9s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" >&2; exit 2; }

command=${1:-}; shift || usage
port=9092 dir='' brokers=1 node=''
while [ $# -gt 0 ]; do
  case $1 in
    --port) port=${2:?--port needs a number}; shift 2 ;;
    --dir) dir=${2:?--dir needs a folder}; shift 2 ;;
    --brokers) brokers=${2:?--brokers needs a number}; shift 2 ;;
    --node) node=${2:?--node needs a number}; shift 2 ;;
    *) usage ;;
  esac
done
[[ $brokers =~ ^[13]$ ]] || die "--brokers $brokers is neither 1 nor 3"
[[ $port =~ ^[0-9]+$ ]] || die "--port $port is not a number"
dir=${dir:-$cache/kafka-data/$port}
container=pelton-kafka-$port

nodes() { if [ -n "$node" ]; then echo "$node"; else seq "$brokers"; fi; }
node_dir() { if [ "$brokers" = 1 ]; then echo "$dir"; else echo "$dir/node-$1"; fi; }
node_port() { echo $((port + 2 * ($1 - 1))); }
listens() { (exec 3<>"/dev/tcp/127.0.0.1/$(node_port "$1")") 2>/dev/null; }
alive() { local pid; pid=$(node_dir "$1")/pid; [ -s "$pid" ] && kill -0 "$(cat "$pid")" 2>/dev/null; }
has_java() { command -v java >/dev/null && command -v mvn >/dev/null; }
has_docker() { command -v docker >/dev/null && docker info >/dev/null 2>&1; }

# The class path of the broker, resolved once. The lock lets several callers wait for one download.
classpath() {
  local home=$cache/kafka-$version
  mkdir -p "$home"
  exec 9>"$home/lock"; flock 9
  if [ ! -s "$home/classpath" ]; then
    cat > "$home/pom.xml" <<POM
<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>pelton</groupId><artifactId>kafka</artifactId><version>1</version>
  <dependencies>
    <dependency><groupId>org.apache.kafka</groupId><artifactId>kafka_2.13</artifactId><version>$version</version></dependency>
    <dependency><groupId>org.apache.kafka</groupId><artifactId>kafka-tools</artifactId><version>$version</version></dependency>
    <dependency><groupId>org.apache.logging.log4j</groupId><artifactId>log4j-slf4j-impl</artifactId><version>2.24.3</version></dependency>
    <dependency><groupId>org.apache.logging.log4j</groupId><artifactId>log4j-core</artifactId><version>2.24.3</version></dependency>
  </dependencies>
</project>
POM
    echo "kafka.sh: fetching Apache Kafka $version from Maven Central" >&2
    (cd "$home" && mvn -q -B dependency:build-classpath -Dmdep.outputFile=classpath.new >mvn.log 2>&1) \
      || die "maven could not fetch Kafka; see $home/mvn.log"
    mv "$home/classpath.new" "$home/classpath"
  fi
  exec 9>&-
  cat "$home/classpath"
}

# The cluster's id and its first controllers, the same for all nodes; made once.
cluster() {
  local run=("$@") i
  if [ ! -s "$dir/cluster" ]; then
    uuid() { "${run[@]}" kafka.tools.StorageTool random-uuid 2>/dev/null | tail -1; }
    local id controllers=""
    id=$(uuid)
    for i in $(seq "$brokers"); do controllers+="${controllers:+,}$i@127.0.0.1:$(($(node_port "$i") + 1)):$(uuid)"; done
    echo "$id $controllers" > "$dir/cluster"
  fi
  cat "$dir/cluster"
}

prepare() {
  local i=$1 home; shift
  home=$(node_dir "$i")
  local run=("$@") id controllers bootstrap="" copies=1 insync=1 k
  if [ "$brokers" = 3 ]; then copies=3 insync=2; fi
  for k in $(seq "$brokers"); do bootstrap+="${bootstrap:+,}127.0.0.1:$(($(node_port "$k") + 1))"; done
  mkdir -p "$home"
  # Sessions of one second let tests kill consumers and go on at once; 32 MiB let them send what is too large.
  cat > "$home/node.properties" <<PROPERTIES
process.roles=broker,controller
node.id=$i
listeners=PLAINTEXT://127.0.0.1:$(node_port "$i"),CONTROLLER://127.0.0.1:$(($(node_port "$i") + 1))
advertised.listeners=PLAINTEXT://127.0.0.1:$(node_port "$i")
controller.listener.names=CONTROLLER
controller.quorum.bootstrap.servers=$bootstrap
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT
log.dirs=$home/data
default.replication.factor=$copies
min.insync.replicas=$insync
offsets.topic.replication.factor=$copies
offsets.topic.num.partitions=4
transaction.state.log.replication.factor=$copies
transaction.state.log.min.isr=$insync
transaction.state.log.num.partitions=4
share.coordinator.state.topic.replication.factor=$copies
share.coordinator.state.topic.min.isr=$insync
group.initial.rebalance.delay.ms=0
group.min.session.timeout.ms=1000
message.max.bytes=33554432
PROPERTIES
  if [ ! -e "$home/data/meta.properties" ]; then
    read -r id controllers < <(cluster "${run[@]}")
    "${run[@]}" kafka.tools.StorageTool format --initial-controllers "$controllers" -t "$id" -c "$home/node.properties" \
      >"$home/format.log" 2>&1 || die "the data folder could not be formatted; see $home/format.log"
  fi
}

start_java() {
  local cp heap=512 i home; cp=$(classpath)
  mkdir -p "$dir"
  cat > "$dir/log4j2.xml" <<'XML'
<Configuration><Appenders><Console name="out"><PatternLayout pattern="%d %p %c %m%n"/></Console></Appenders>
<Loggers><Root level="info"><AppenderRef ref="out"/></Root></Loggers></Configuration>
XML
  local run=(java -Dlog4j2.configurationFile="$dir/log4j2.xml" -cp "$cp")
  if [ "$brokers" = 3 ]; then heap=300; fi
  for i in $(nodes); do
    alive "$i" && continue
    prepare "$i" "${run[@]}"
    home=$(node_dir "$i")
    : > "$home/server.log"
    setsid nohup "${run[@]}" -Xms128m "-Xmx${heap}m" kafka.Kafka "$home/node.properties" >"$home/server.log" 2>&1 < /dev/null &
    echo $! > "$home/pid"
  done
  for i in $(nodes); do await "$i"; done
}

await() {
  local home; home=$(node_dir "$1")
  for _ in $(seq 480); do
    if grep -q "Kafka Server started" "$home/server.log" && listens "$1"; then return 0; fi
    alive "$1" || die "the broker ended while starting; see $home/server.log"
    sleep 0.25
  done
  die "the broker did not answer within two minutes; see $home/server.log"
}

start_docker() {
  docker rm -f "$container" >/dev/null 2>&1 || true
  docker run -d --name "$container" --network host \
    -e KAFKA_NODE_ID=1 -e KAFKA_PROCESS_ROLES=broker,controller \
    -e KAFKA_LISTENERS="PLAINTEXT://127.0.0.1:$port,CONTROLLER://127.0.0.1:$((port + 1))" \
    -e KAFKA_ADVERTISED_LISTENERS="PLAINTEXT://127.0.0.1:$port" \
    -e KAFKA_CONTROLLER_LISTENER_NAMES=CONTROLLER \
    -e KAFKA_LISTENER_SECURITY_PROTOCOL_MAP=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT \
    -e KAFKA_CONTROLLER_QUORUM_VOTERS="1@127.0.0.1:$((port + 1))" \
    -e KAFKA_OFFSETS_TOPIC_REPLICATION_FACTOR=1 -e KAFKA_TRANSACTION_STATE_LOG_REPLICATION_FACTOR=1 \
    -e KAFKA_TRANSACTION_STATE_LOG_MIN_ISR=1 -e KAFKA_GROUP_INITIAL_REBALANCE_DELAY_MS=0 \
    -e KAFKA_GROUP_MIN_SESSION_TIMEOUT_MS=1000 -e KAFKA_MESSAGE_MAX_BYTES=33554432 \
    "apache/kafka:$version" >/dev/null
  for _ in $(seq 240); do
    if docker logs "$container" 2>&1 | grep -q "Kafka Server started" && listens 1; then return 0; fi
    sleep 0.25
  done
  die "the container $container did not answer within a minute; see docker logs $container"
}

start() {
  local i running=yes
  for i in $(nodes); do
    if alive "$i" && listens "$i"; then continue; fi
    running=no
    if listens "$i"; then die "port $(node_port "$i") is taken by something else; give another --port"; fi
  done
  if [ "$running" = yes ]; then echo "kafka.sh: runs already on 127.0.0.1:$port" >&2; return 0; fi
  if has_java; then start_java
  elif [ "$brokers" = 1 ] && has_docker; then start_docker
  elif [ -x "$here/system.sh" ]; then "$here/system.sh"; start_java
  else die "needs Java 17 and Maven, or a running Docker engine"; fi
  echo "kafka.sh: Apache Kafka $version answers on 127.0.0.1:$(node_port "$(nodes | head -1)")" >&2
}

stop() {
  local i pid
  for i in $(nodes); do if alive "$i"; then kill -TERM "$(cat "$(node_dir "$i")/pid")"; fi; done
  for i in $(nodes); do
    if alive "$i"; then
      pid=$(cat "$(node_dir "$i")/pid")
      for _ in $(seq 80); do kill -0 "$pid" 2>/dev/null || break; sleep 0.25; done
      kill -KILL "$pid" 2>/dev/null || true
    fi
    rm -f "$(node_dir "$i")/pid"
  done
  if [ -z "$node" ] && has_docker; then docker rm -f "$container" >/dev/null 2>&1 || true; fi
}

# SIGKILL: nothing is flushed, nobody is told.
kill_nodes() {
  local i
  for i in $(nodes); do
    if alive "$i"; then
      kill -KILL "$(cat "$(node_dir "$i")/pid")"
      while alive "$i"; do sleep 0.05; done
    fi
    rm -f "$(node_dir "$i")/pid"
  done
}

status() {
  local i
  for i in $(nodes); do
    if listens "$i"; then echo "up 127.0.0.1:$(node_port "$i")"; else echo "down 127.0.0.1:$(node_port "$i")"; return 1; fi
  done
}

case $command in
  start) start ;;
  stop) stop ;;
  kill) kill_nodes ;;
  status) status ;;
  *) usage ;;
esac
