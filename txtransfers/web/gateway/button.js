// Transfers between peers, in Orthanc Explorer: a button on the pages of a patient, a study, a series.
// It uses what the page has loaded: jQuery, jQuery Mobile and its simpledialog2.
(function () {
  'use strict';

  var LEVELS = { patient: 'Patient', study: 'Study', series: 'Series' };
  var HINTS = {
    installed: '',
    bidirectional: ' (bidirectional)',
    disabled: ' (not available)'
  };

  // What went wrong, in the words of whoever answered.
  function reasonOf(request) {
    var told;
    try {
      told = JSON.parse(request.responseText);
    } catch (error) {
      told = {};
    }
    return told.Details || told.Message || request.statusText || 'no answer';
  }

  function complain(what) {
    return function (request) {
      $.mobile.hidePageLoadingMsg();
      alert(what + ': ' + reasonOf(request));
    };
  }

  function send(level, id, peer) {
    $.mobile.showPageLoadingMsg();
    $.ajax({
      url: '../transfers/send',
      type: 'POST',
      contentType: 'application/json',
      data: JSON.stringify({
        Resources: [{ Level: level, ID: id }],
        Compression: 'gzip',
        Peer: peer,
        Synchronous: false
      }),
      dataType: 'json',
      success: function (answer) {
        $.mobile.hidePageLoadingMsg();
        window.location.assign('explorer.html#job?uuid=' + answer.ID);
      },
      error: complain('The transfer to ' + peer + ' was not accepted')
    });
  }

  function row(peer, state, choose) {
    var link = $('<a>', { href: '#', rel: 'close' }).text(peer + (HINTS[state] || ''));
    var item = $('<li>').attr('data-transfers-peer', peer).append(link);
    return state === 'disabled'
      ? item.addClass('ui-disabled').attr('aria-disabled', 'true')
      : item.click(function () { choose(peer); });
  }

  // Calls onChosen with the name of a peer, once the dialog is closed; not at all if none is chosen.
  function choosePeer(states, onChosen) {
    var chosen = null;
    var list = $('<ul>', { id: 'transfers-peers' })
      .attr('data-role', 'listview')
      .attr('data-divider-theme', 'd');
    list.append($('<li>').attr('data-role', 'list-divider').text('Peers'));
    $.each(Object.keys(states).sort(), function (_index, peer) {
      list.append(row(peer, states[peer], function (name) { chosen = name; }));
    });
    $('#dialog').simpledialog2({
      mode: 'blank',
      animate: false,
      headerText: 'Choose the peer',
      headerClose: true,
      forceInput: false,
      width: '100%',
      blankContent: list,
      callbackClose: function () {
        // The dialog changes the address while it closes: it is to be gone before we do.
        var timer = setInterval(function () {
          if (!$('#dialog').is(':visible')) {
            clearInterval(timer);
            if (chosen !== null) {
              onChosen(chosen);
            }
          }
        }, 50);
      }
    });
  }

  function start(level, id) {
    $.mobile.showPageLoadingMsg(); // a peer that cannot be reached takes a moment
    $.ajax({
      url: '../transfers/peers',
      dataType: 'json',
      cache: false,
      success: function (states) {
        $.mobile.hidePageLoadingMsg();
        if ($.isEmptyObject(states)) {
          alert('There is no peer: add one to OrthancPeers in the configuration of txtransfers.');
        } else {
          choosePeer(states, function (peer) { send(level, id, peer); });
        }
      },
      error: complain('The peers could not be listed')
    });
  }

  $.each(LEVELS, function (page, level) {
    $('#' + page).live('pagebeforecreate', function () {
      var button = $('<a>', { href: '#', id: page + '-transfers' })
        .attr('data-role', 'button')
        .attr('data-icon', 'forward')
        .attr('data-theme', 'e')
        .text('Transfers accelerator')
        .click(function (event) {
          event.preventDefault();
          if ($.mobile.pageData) {
            start(level, $.mobile.pageData.uuid);
          }
        });
      $('#' + page + '-info').after(button);
    });
  });
}());
