pub(crate) mod xbstream;
