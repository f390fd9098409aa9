/** A client of `ringhub.v1`. docs/client-js.md describes it. */

/** The error of a command, of an opening request, of a token function or of a connection. */
export class RinghubError extends Error {
  constructor(name: string, reason: string, members?: { code?: number; status?: number; temporary?: boolean });
  /** The name of an error of docs/protocol.md, or `offline`, `queue_full`, `disconnected`, `closed`, `refused`, `unreachable`. */
  name: string;
  /** The code of the error in docs/protocol.md. In `disconnected` and `closed` it is the code of the close. */
  code?: number;
  /** The status of the answer to the opening request, in `refused`. */
  status?: number;
  /** Whether the same may succeed later. */
  temporary: boolean;
}

export type State = "connecting" | "open" | "waiting" | "closed";

/** The end of a connection, or of an attempt to open one. */
export interface End {
  /** The close code; 1006 without a close frame. */
  code: number;
  reason: string;
  /** Why no connection was opened, or why none will be. */
  error?: Error;
}

export interface Options {
  /** A bearer token, or a function that is asked for one before each connection. */
  token?: string | (() => string | null | undefined | Promise<string | null | undefined>);
  /** The longest delay before the first attempt to connect again, in milliseconds; doubled at each attempt. 500. */
  minDelay?: number;
  /** The longest delay before any attempt, in milliseconds. 30 000. */
  maxDelay?: number;
  /** After so many milliseconds a connection is stable: its end begins with `minDelay` again. 10 000. */
  stableAfter?: number;
  /** Milliseconds of silence after which the server is asked for a sign of life. 25 000. */
  pingInterval?: number;
  /** The longest time to an answer to that question, or to an opening request, in milliseconds. 10 000. */
  timeout?: number;
  /** The most commands that wait for a connection. 256. */
  queue?: number;
  /** Whether commands wait for a connection, unless the call says otherwise. `true`. */
  wait?: boolean;
  /** Decides whether the client connects again. Without it, it does unless the end is final. */
  shouldReconnect?(end: End & { isFinal: boolean }): boolean;
  /** The class of WebSockets, for runtimes without one. */
  WebSocket?: new (url: string, protocols: string[]) => unknown;
}

/** The place of a message in its topic. */
export interface Place {
  epoch: string;
  offset: number;
}

/** How many subscribers a message was for, and what became of it for them. */
export interface Receipt {
  matched: number;
  sent: number;
  queued: number;
  dropped: number;
  closed: number;
}

export interface MessageEvent extends Event {
  readonly topic: string;
  /** Missing, as `offset`, if the message was published for its shard alone. */
  readonly epoch?: string;
  readonly offset?: number;
  /** The name of the event, if the publisher has given one. */
  readonly event?: string;
  /** The value of JSON, the text, or the binary data. */
  readonly data: any;
  /** The payload as it was published, if messages come in binary frames. */
  readonly bytes?: Uint8Array;
}

export interface LaggedEvent extends Event {
  readonly topic: string;
  readonly epoch?: string;
  readonly from?: number;
  readonly to?: number;
  /** How many messages are missing. */
  readonly count: number;
  readonly policy: string;
}

export interface SubscribedEvent extends Event {
  readonly topic: string;
  /** The place of the last message before the subscription; `offset` is 0 if there was none. */
  readonly epoch?: string;
  readonly offset?: number;
  /** Whether an earlier connection had the subscription. */
  readonly resubscribed: boolean;
  /** Whether every message after the position follows that the client has asked for; missing if it asked for none. */
  readonly recovered?: boolean;
}

export interface UnsubscribedEvent extends Event {
  readonly topic: string;
  /** Why the server has ended the subscription. */
  readonly error?: RinghubError;
}

export interface StateEvent extends Event, Partial<End> {
  readonly state: State;
  /** Milliseconds until the next attempt, in the state `waiting`. */
  readonly delay?: number;
}

export interface ErrorEvent extends Event {
  readonly error: Error;
}

export interface Events {
  message: MessageEvent;
  lagged: LaggedEvent;
  subscribed: SubscribedEvent;
  unsubscribed: UnsubscribedEvent;
  state: StateEvent;
  error: ErrorEvent;
}

/** A connection to a hub. When it is lost it is opened again, with the same subscriptions. */
export class Ringhub extends EventTarget {
  /** Connects. Without a URL it is `ws` beside the address of the module. */
  constructor(url?: string | URL, options?: Options);
  readonly state: State;
  /** Connects now, if the client is closed or waits. */
  connect(): void;
  /** Closes the connection for good, and fails all commands. Subscriptions that were live are kept for `connect`. */
  close(code?: number, reason?: string): void;
  /** Subscribes to a topic until `unsubscribe`, over all connections. */
  subscribe(
    topic: string,
    options?: { echo?: boolean; since?: string; last?: number; wait?: boolean },
  ): Promise<{ topic: string; recovered?: boolean } & Partial<Place>>;
  unsubscribe(topic: string): Promise<{ topic: string }>;
  /**
   * Publishes a string as text, bytes as binary data, and any other value as JSON. A message with an `id` is published
   * once, however often it is sent. With `receipt` the answer tells what became of the message for its subscribers.
   */
  publish(
    topic: string,
    data: unknown,
    options?: { event?: string; key?: string; id?: string; receipt?: boolean; wait?: boolean },
  ): Promise<Place & { topic: string; receipt?: Receipt | { error: string } }>;
  /** Shows the server a new token: this one, or that of the token function. */
  refresh(token?: string): Promise<{}>;
  /** Returns the milliseconds until the server's answer. */
  ping(): Promise<number>;

  addEventListener<K extends keyof Events>(type: K, listener: Listener<Events[K]>, options?: ListenerOptions): void;
  addEventListener(type: string, listener: Listener<Event>, options?: ListenerOptions): void;
  removeEventListener<K extends keyof Events>(type: K, listener: Listener<Events[K]>, options?: ListenerOptions): void;
  removeEventListener(type: string, listener: Listener<Event>, options?: ListenerOptions): void;
}

export type Listener<E extends Event> = ((event: E) => void) | { handleEvent(event: E): void } | null;

export type ListenerOptions = boolean | { capture?: boolean; once?: boolean; passive?: boolean; signal?: AbortSignal };
